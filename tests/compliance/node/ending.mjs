// How connections end, and what comes after.
import { deepStrictEqual, equal, notEqual } from 'node:assert/strict';
import { ask, hear, heardExactly, once, range, upgraded } from './world.mjs';

export async function kicked(world) {
  const socket = await world.open();
  const chat = await world.open('/chat', { manager: socket.io });
  const gone = once(socket, 'disconnect');
  socket.emit('kick');
  equal((await gone)[0], 'io server disconnect');
  equal(socket.connected, false);
  deepStrictEqual(await ask(chat, 'echo', 'untouched'), ['untouched']);
  // Nothing brings it back but the application.
  const before = socket.welcome.sid;
  const welcome = once(socket, 'welcome');
  socket.connect();
  const [{ sid }] = await welcome;
  notEqual(sid, before);
  deepStrictEqual(await ask(socket, 'echo', 'again'), ['again']);
}

export async function droppedThenReconnects(world) {
  const socket = await world.open();
  if (world.transport === 'upgrade') await upgraded(socket);
  const gone = once(socket, 'disconnect');
  const welcome = once(socket, 'welcome');
  socket.emit('drop');
  equal((await gone)[0], 'transport close');
  const [{ sid }] = await welcome;
  equal(socket.id, sid);
  notEqual(sid, socket.welcome.sid);
  deepStrictEqual(await ask(socket, 'echo', 'again'), ['again']);
}

export async function droppedInAllNamespaces(world) {
  const socket = await world.open();
  const chat = await world.open('/chat', { manager: socket.io });
  const gone = [once(socket, 'disconnect'), once(chat, 'disconnect')];
  const welcome = [once(socket, 'welcome'), once(chat, 'welcome')];
  socket.emit('drop');
  await Promise.all(gone);
  await Promise.all(welcome);
  deepStrictEqual(await ask(chat, 'echo', 'again'), ['again']);
}

// What an application emits meanwhile waits in the client and comes in order.
export async function droppedThenBuffered(world) {
  const socket = await world.open('/', { reconnection: false });
  const heard = hear(socket, 'echo-event-back');
  const gone = once(socket, 'disconnect');
  socket.emit('drop');
  await gone;
  for (const number of range(20)) socket.emit('echo-event', number);
  socket.connect();
  await once(socket, 'connect');
  await heardExactly(
    socket,
    heard,
    range(20).map((number) => ['echo-event-back', number]),
  );
}

export async function leavesOneNamespace(world) {
  const socket = await world.open();
  const chat = await world.open('/chat', { manager: socket.io });
  const gone = once(chat, 'disconnect');
  chat.disconnect();
  equal((await gone)[0], 'io client disconnect');
  deepStrictEqual(await ask(socket, 'echo', 'untouched'), ['untouched']);
  const welcome = once(chat, 'welcome');
  chat.connect();
  const [{ sid }] = await welcome;
  notEqual(sid, chat.welcome.sid);
  deepStrictEqual(await ask(chat, 'echo', 'again'), ['again']);
}

export async function leavesAll(world) {
  const socket = await world.open();
  const other = await world.open();
  const room = `left ${socket.id}`;
  const heard = hear(other, 'room-msg');
  await ask(socket, 'join', room);
  await ask(other, 'join', room);
  socket.disconnect();
  await ask(other, 'to-room', room, 'after');
  await heardExactly(other, heard, [['room-msg', room, 'after']]);
}

export async function comesAndGoes(world) {
  for (const number of range(20)) {
    const socket = await world.open(number % 2 ? '/' : '/chat');
    deepStrictEqual(await ask(socket, 'echo', number), [number]);
    socket.disconnect();
  }
}

// Gone before the server has answered: nobody else notices.
export async function goesAtOnce(world) {
  const other = await world.open();
  for (const number of range(10)) {
    const socket = world.dial();
    socket.connect();
    const opened = new Promise((resolve) => socket.io.once('open', resolve));
    if (number % 2) await opened;
    socket.disconnect();
  }
  deepStrictEqual(await ask(other, 'echo', 'untouched'), ['untouched']);
}
