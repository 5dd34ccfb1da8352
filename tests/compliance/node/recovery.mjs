// A session that is brought back with all it missed, or not at all.
import { deepStrictEqual, equal, notEqual } from 'node:assert/strict';
import { Hole } from './hole.mjs';
import { ask, hear, heardExactly, once, range, upgraded } from './world.mjs';

/** What a client hears; each event brings its offset as one more argument, which is looked at and left out. */
function hearOffsets(socket, ...more) {
  const heard = hear(socket, 'room-msg', 'broadcast-msg', 'echo-event-back', ...more);
  const { push } = heard;
  heard.push = (message) => {
    equal(typeof message.at(-1), 'string');
    return push.call(heard, message.slice(0, -1));
  };
  return heard;
}

/** A client in a room, what it hears, and another that talks to it. */
async function meet(world, options = {}) {
  const socket = await world.open('/', { reconnection: false, ...options });
  const other = await world.open();
  const room = `recovery ${socket.id}`;
  await ask(socket, 'join', room);
  if (world.transport === 'upgrade') await upgraded(socket);
  return { socket, other, room, heard: hearOffsets(socket) };
}

async function drop(socket) {
  const gone = once(socket, 'disconnect');
  socket.emit('drop');
  await gone;
}

async function comeBack(socket) {
  const connected = once(socket, 'connect');
  socket.connect();
  await connected;
}

async function expectRecovered(socket, sid) {
  equal(socket.recovered, true);
  equal(socket.id, sid);
}

export async function recoversRoomEvents(world) {
  const { socket, other, room, heard } = await meet(world);
  const sid = socket.id;
  await ask(other, 'to-room', room, 'before');
  await ask(socket, 'echo', 'barrier');
  await drop(socket);
  for (const number of range(3)) await ask(other, 'to-room', room, number);
  await ask(other, 'to-room', 'elsewhere', 'not for it');
  await comeBack(socket);
  await expectRecovered(socket, sid);
  await ask(other, 'to-room', room, 'after');
  await heardExactly(
    socket,
    heard,
    ['before', 0, 1, 2, 'after'].map((payload) => ['room-msg', room, payload]),
  );
}

export async function recoversBroadcasts(world) {
  const { socket, other, room, heard } = await meet(world);
  const sid = socket.id;
  await drop(socket);
  await ask(other, 'broadcast', { tag: sid, number: 1 });
  await ask(other, 'to-room', room, 2);
  await ask(other, 'broadcast', { tag: sid, number: 3 });
  await comeBack(socket);
  await expectRecovered(socket, sid);
  await heardExactly(socket, heard, [
    ['broadcast-msg', { tag: sid, number: 1 }],
    ['room-msg', room, 2],
    ['broadcast-msg', { tag: sid, number: 3 }],
  ]);
}

export async function recoversBinary(world) {
  const { socket, other, room, heard } = await meet(world);
  const sid = socket.id;
  const payload = { bytes: Buffer.from([0, 255]), list: [Buffer.from('more')] };
  await drop(socket);
  await ask(other, 'to-room', room, payload);
  await ask(other, 'to-room', room, 'text');
  await comeBack(socket);
  await expectRecovered(socket, sid);
  await heardExactly(socket, heard, [
    ['room-msg', room, payload],
    ['room-msg', room, 'text'],
  ]);
}

// What was written to a connection that had died was not received, and what others did not get either.
export async function recoversDirectEvents(world) {
  const hole = new Hole(world.url);
  world.atEnd(() => hole.close());
  const { socket, other, room, heard } = await meet(world, { url: await hole.listen() });
  const sid = socket.id;
  await ask(other, 'join', room);
  const served = once(other, 'room-msg');
  hole.deaf = true;
  for (const number of range(3)) socket.emit('echo-event', number);
  socket.emit('to-room-others', room, 'served');
  await served;
  const gone = once(socket, 'disconnect');
  hole.cut();
  await gone;
  await ask(other, 'to-room', room, 'missed');
  await comeBack(socket);
  await expectRecovered(socket, sid);
  await heardExactly(socket, heard, [
    ...range(3).map((number) => ['echo-event-back', number]),
    ['room-msg', room, 'missed'],
  ]);
}

// No event was received before, so that the client knows no offset.
export async function recoversWithoutAnyEvent(world) {
  const socket = world.dial('/', { reconnection: false });
  const heard = hearOffsets(socket, 'welcome');
  socket.onevent = () => {};
  await comeBack(socket);
  const sid = socket.id;
  await drop(socket);
  delete socket.onevent;
  const other = await world.open();
  await ask(other, 'broadcast', sid);
  await comeBack(socket);
  await expectRecovered(socket, sid);
  await ask(socket, 'echo', 'barrier');
  // It is welcomed again behind what it missed, as everyone is who connects.
  const welcome = ['welcome', { sid, auth: socket.auth }];
  deepStrictEqual([...heard], [welcome, ['broadcast-msg', sid], welcome]);
}

// Replayed events carry offsets, too: the second time only what was missed since.
export async function recoversTwice(world) {
  const { socket, other, room, heard } = await meet(world);
  const sid = socket.id;
  for (const round of range(3)) {
    await drop(socket);
    for (const number of range(2)) await ask(other, 'to-room', room, [round, number]);
    await comeBack(socket);
    await expectRecovered(socket, sid);
    await ask(socket, 'echo', 'barrier');
  }
  await heardExactly(
    socket,
    heard,
    range(6).map((at) => ['room-msg', room, [Math.floor(at / 2), at % 2]]),
  );
}

export async function recoversByItself(world) {
  const { socket, other, room, heard } = await meet(world, { reconnection: true });
  const sid = socket.id;
  const back = once(socket, 'connect');
  await drop(socket);
  await ask(other, 'to-room', room, 'meanwhile');
  await back;
  await expectRecovered(socket, sid);
  await heardExactly(socket, heard, [['room-msg', room, 'meanwhile']]);
}

export async function recoversEachNamespace(world) {
  const socket = await world.open('/', { reconnection: false });
  const chat = await world.open('/chat', { manager: socket.io });
  const before = [socket.id, chat.id];
  await drop(socket);
  await Promise.all([comeBack(socket), comeBack(chat)]);
  deepStrictEqual([socket.id, chat.id], before);
  deepStrictEqual([socket.recovered, chat.recovered], [true, true]);
  deepStrictEqual(await ask(chat, 'echo', 'again'), ['again']);
}

export async function recoversNothingAfterKick(world) {
  const { socket } = await meet(world);
  const sid = socket.id;
  const gone = once(socket, 'disconnect');
  socket.emit('kick');
  await gone;
  await comeBack(socket);
  equal(socket.recovered, false);
  notEqual(socket.id, sid);
}

export async function recoversNothingAfterLeaving(world) {
  const { socket, other, room, heard } = await meet(world);
  const sid = socket.id;
  socket.disconnect();
  await ask(other, 'to-room', room, 'meanwhile');
  await comeBack(socket);
  equal(socket.recovered, false);
  notEqual(socket.id, sid);
  await heardExactly(socket, heard, []);
}

export async function recoversNothingUnknown(world) {
  const { socket } = await meet(world);
  for (const [pid, offset] of [
    ['guessed', undefined],
    [socket._pid, 'guessed'],
    ['', ''],
  ]) {
    await drop(socket);
    socket._pid = pid;
    socket._lastOffset = offset;
    const sid = socket.id;
    await comeBack(socket);
    equal(socket.recovered, false);
    notEqual(socket.id, sid);
    deepStrictEqual(await ask(socket, 'echo', 'fresh'), ['fresh']);
  }
}

// However much was missed: the whole of it, or a new session that hears nothing of it.
export async function recoversAllOrNothing(world) {
  const { socket, other, room, heard } = await meet(world);
  const sid = socket.id;
  await drop(socket);
  const padding = 'x'.repeat(1000);
  const numbers = range(5000);
  // In portions: a polling client reckons the size of base64 a little short, and would post too much at once.
  for (let from = 0; from < numbers.length; from += 50) {
    await Promise.all(numbers.slice(from, from + 50).map((number) => ask(other, 'to-room', room, [number, padding])));
  }
  await comeBack(socket);
  await ask(socket, 'echo', 'barrier');
  equal(socket.recovered, socket.id === sid);
  deepStrictEqual(
    heard.map((message) => message[2][0]),
    socket.recovered ? numbers : [],
  );
}
