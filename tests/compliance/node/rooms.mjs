// Rooms and broadcasts: who hears what.
import { deepStrictEqual } from 'node:assert/strict';
import { ask, hear, heardExactly, once, range } from './world.mjs';

/** Three clients, the first two in a room of this scenario's own, and what each hears of it. */
async function makeRoom(world) {
  const sockets = await world.openMany(3);
  const room = `room ${sockets[0].id} é`;
  const heard = sockets.map((socket) => hear(socket, 'room-msg'));
  for (const socket of sockets.slice(0, 2)) deepStrictEqual(await ask(socket, 'join', room), ['ok']);
  const expect = (...expected) =>
    Promise.all(
      sockets.map((socket, at) =>
        heardExactly(
          socket,
          heard[at],
          expected[at].map((payload) => ['room-msg', room, payload]),
        ),
      ),
    );
  return { sockets, room, expect };
}

export async function roomAll(world) {
  const { sockets, room, expect } = await makeRoom(world);
  deepStrictEqual(await ask(sockets[0], 'to-room', room, { text: 'inside' }), ['ok']);
  deepStrictEqual(await ask(sockets[2], 'to-room', room, 'outside'), ['ok']);
  await expect([{ text: 'inside' }, 'outside'], [{ text: 'inside' }, 'outside'], []);
}

export async function roomOthers(world) {
  const { sockets, room, expect } = await makeRoom(world);
  deepStrictEqual(await ask(sockets[0], 'to-room-others', room, 1), ['ok']);
  deepStrictEqual(await ask(sockets[2], 'to-room-others', room, 2), ['ok']);
  await expect([2], [1, 2], []);
}

export async function roomLeft(world) {
  const { sockets, room, expect } = await makeRoom(world);
  deepStrictEqual(await ask(sockets[1], 'leave', room), ['ok']);
  await ask(sockets[0], 'to-room', room, 'after');
  deepStrictEqual(await ask(sockets[1], 'join', room), ['ok']);
  await ask(sockets[0], 'to-room', room, 'again');
  await expect(['after', 'again'], ['again'], []);
}

export async function roomJoinedTwice(world) {
  const { sockets, room, expect } = await makeRoom(world);
  await ask(sockets[1], 'join', room);
  await ask(sockets[0], 'to-room', room, 'once');
  await ask(sockets[1], 'leave', room);
  await ask(sockets[0], 'to-room', room, 'gone');
  await expect(['once', 'gone'], ['once'], []);
}

export async function roomEmpty(world) {
  const { sockets, expect } = await makeRoom(world);
  deepStrictEqual(await ask(sockets[0], 'to-room', 'nobody is here', 1), ['ok']);
  await expect([], [], []);
}

// Names of rooms are their namespace's own, and a client that came back is in none.
export async function roomAfterReconnect(world) {
  const { sockets, room, expect } = await makeRoom(world);
  sockets[1].disconnect();
  const welcome = once(sockets[1], 'welcome');
  sockets[1].connect();
  await welcome;
  await ask(sockets[0], 'to-room', room, 'after');
  await expect(['after'], [], []);
}

export async function roomOrder(world) {
  const { sockets, room, expect } = await makeRoom(world);
  await Promise.all(range(200).map((number) => ask(sockets[2], 'to-room', room, number)));
  await expect(range(200), range(200), []);
}

export async function broadcastOthers(world) {
  const sockets = await world.openMany(3);
  const chat = await world.open('/chat');
  const heard = [...sockets, chat].map((socket) => hear(socket, 'broadcast-msg'));
  const payload = { from: sockets[0].id };
  deepStrictEqual(await ask(sockets[0], 'broadcast', payload), ['ok']);
  const expected = [[], [['broadcast-msg', payload]], [['broadcast-msg', payload]], []];
  await Promise.all([...sockets, chat].map((socket, at) => heardExactly(socket, heard[at], expected[at])));
}

export async function roomCrowded(world) {
  const sockets = await world.openMany(40);
  const room = `crowd ${sockets[0].id}`;
  const heard = sockets.map((socket) => hear(socket, 'room-msg'));
  await Promise.all(sockets.map((socket) => ask(socket, 'join', room)));
  for (const number of range(5)) {
    await Promise.all(sockets.map((socket, at) => ask(socket, 'to-room', room, [number, at])));
  }
  // Senders race, so that only the order of each one's own messages is certain.
  const expected = range(5).flatMap((number) => range(40).map((at) => JSON.stringify([number, at])));
  for (const [at, socket] of sockets.entries()) {
    await ask(socket, 'echo', 'barrier');
    const rounds = range(5).flatMap((number) => heard[at].slice(number * 40, number * 40 + 40).sort((a, b) => a[2][1] - b[2][1]));
    deepStrictEqual(rounds.map((message) => JSON.stringify(message[2])), expected);
    deepStrictEqual(heard[at].length, 200);
  }
}
