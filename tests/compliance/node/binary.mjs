// Bytes in events and acknowledgements.
import { deepStrictEqual } from 'node:assert/strict';
import { ask, hear, heardExactly, range } from './world.mjs';

const BYTES = Buffer.from([0, 1, 2, 253, 254, 255]);
const ALL = Buffer.from(range(256));

export async function binaryEcho(world) {
  const socket = await world.open();
  for (const data of [BYTES, ALL, Buffer.alloc(0), Buffer.from('text'), Buffer.alloc(20_000, 0x1e)]) {
    deepStrictEqual(await ask(socket, 'echo', data), [data]);
  }
}

export async function binaryInNamespace(world) {
  const socket = await world.open('/chat');
  deepStrictEqual(await ask(socket, 'echo', 'name', BYTES, { BYTES }), ['name', BYTES, { BYTES }]);
}

export async function binaryNested(world) {
  const socket = await world.open();
  const value = { list: [1, [BYTES], { deep: { er: ALL } }], text: '💥', none: null };
  deepStrictEqual(await ask(socket, 'echo', value, [value]), [value, [value]]);
}

export async function binaryAttachments(world) {
  const socket = await world.open();
  for (const count of [2, 10]) {
    const parts = range(count).map((number) => Buffer.alloc(number + 1, number));
    deepStrictEqual(await ask(socket, 'echo', ...parts), parts);
    deepStrictEqual(await ask(socket, 'echo', parts), [parts]);
  }
}

// Views of the same bytes arrive as bytes, whatever they were.
export async function binaryViews(world) {
  const socket = await world.open();
  const array = Uint8Array.from(BYTES);
  const [first, second] = await ask(socket, 'echo', array, array.buffer);
  deepStrictEqual([Buffer.from(first), Buffer.from(second)], [BYTES, BYTES]);
}

export async function binaryEvents(world) {
  const socket = await world.open();
  const heard = hear(socket, 'echo-event-back');
  socket.emit('echo-event', BYTES);
  socket.emit('echo-event', { a: [BYTES] }, ALL, 'text');
  await heardExactly(socket, heard, [
    ['echo-event-back', BYTES],
    ['echo-event-back', { a: [BYTES] }, ALL, 'text'],
  ]);
}

export async function binaryInOrder(world) {
  const socket = await world.open();
  const heard = hear(socket, 'echo-event-back');
  const values = range(300).map((number) => (number % 3 ? number : Buffer.from([number & 255, 1])));
  for (const value of values) socket.emit('echo-event', value);
  await heardExactly(
    socket,
    heard,
    values.map((value) => ['echo-event-back', value]),
  );
}

export async function binaryAsked(world) {
  const socket = await world.open();
  socket.on('question', (x, answer) => answer({ back: [x, ALL] }));
  deepStrictEqual(await ask(socket, 'ask-me', BYTES), [{ back: [BYTES, ALL] }]);
}

export async function binaryToRoom(world) {
  const sockets = await world.openMany(3);
  const room = `binary ${sockets[0].id}`;
  const heard = sockets.map((socket) => hear(socket, 'room-msg'));
  await Promise.all(sockets.map((socket) => ask(socket, 'join', room)));
  await ask(sockets[0], 'to-room', room, { data: BYTES, more: [ALL] });
  await Promise.all(
    sockets.map((socket, at) => heardExactly(socket, heard[at], [['room-msg', room, { data: BYTES, more: [ALL] }]])),
  );
}
