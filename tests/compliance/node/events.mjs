// Events and acknowledgements, both ways.
import { deepStrictEqual, equal, ok, rejects } from 'node:assert/strict';
import { ask, hear, heardExactly, once, range } from './world.mjs';

const VALUES = [
  null,
  true,
  0,
  -1,
  2 ** 53 - 1,
  -(2 ** 53) + 1,
  1.5,
  2.5e-300,
  '',
  'text',
  [],
  {},
  [[[]]],
  { a: { b: [1, 'two', null, { c: false }] } },
  { '': 1, $bytes: 'AA==', $$: 2, __proto: 3, _placeholder: false },
];

const TEXTS = ['äöü', '日本語', '💥👩‍👩‍👧', '\u0000\u001e\u2028"\\', 'e\u0301', '\r\n\t', '1-["', '\u007f\u0080\uffff'];

export async function echoValues(world) {
  const socket = await world.open();
  for (const value of VALUES) deepStrictEqual(await ask(socket, 'echo', value), [value]);
}

export async function echoArguments(world) {
  const socket = await world.open();
  deepStrictEqual(await ask(socket, 'echo'), []);
  deepStrictEqual(await ask(socket, 'echo', ...VALUES), VALUES);
  deepStrictEqual(await ask(socket, 'echo', ...range(200)), range(200));
}

export async function echoUnicode(world) {
  const socket = await world.open('/chat');
  deepStrictEqual(await ask(socket, 'echo', ...TEXTS), TEXTS);
  for (const text of TEXTS) deepStrictEqual(await ask(socket, 'echo', { [text]: text }), [{ [text]: text }]);
}

// What no JSON holds: the default parser makes null of the one and text of the other.
export async function echoUndefinedAndDates(world) {
  const socket = await world.open();
  const date = new Date(1_700_000_000_123);
  const [nothing, when, ago] = await ask(socket, 'echo', undefined, date, new Date(-1));
  ok(nothing === null || nothing === undefined);
  if (world.parser === 'msgpack') deepStrictEqual([when, ago], [date, new Date(-1)]);
  else deepStrictEqual([when, ago], [date.toISOString(), new Date(-1).toISOString()]);
}

export async function eventsInOrder(world) {
  const socket = await world.open();
  const heard = hear(socket, 'echo-event-back');
  for (const number of range(1000)) socket.emit('echo-event', number, { number });
  await heardExactly(
    socket,
    heard,
    range(1000).map((number) => ['echo-event-back', number, { number }]),
  );
}

export async function eventsWithoutArguments(world) {
  const socket = await world.open();
  const heard = hear(socket, 'echo-event-back');
  socket.emit('echo-event');
  socket.emit('echo-event', ...VALUES);
  await heardExactly(socket, heard, [['echo-event-back'], ['echo-event-back', ...VALUES]]);
}

export async function acknowledgementsAtOnce(world) {
  const socket = await world.open();
  const answers = await Promise.all(range(500).map((number) => ask(socket, 'echo', number, `n${number}`)));
  deepStrictEqual(
    answers,
    range(500).map((number) => [number, `n${number}`]),
  );
}

export async function acknowledgementAsked(world) {
  const socket = await world.open();
  socket.on('question', (x, answer) => answer({ doubled: x * 2 }));
  deepStrictEqual(await ask(socket, 'ask-me', 21), [{ doubled: 42 }]);
}

export async function acknowledgementsAskedAtOnce(world) {
  const sockets = await world.openMany(2);
  for (const [at, socket] of sockets.entries()) socket.on('question', (x, answer) => answer(`${at}:${x}`));
  const answers = sockets.map((socket) => Promise.all(range(50).map((number) => ask(socket, 'ask-me', number))));
  for (const [at, given] of (await Promise.all(answers)).entries()) {
    deepStrictEqual(
      given,
      range(50).map((number) => [`${at}:${number}`]),
    );
  }
}

// Answers come back in the order in which they were given, not that of the questions.
export async function acknowledgementsOutOfOrder(world) {
  const socket = await world.open();
  const asked = [];
  socket.on('question', (x, answer) => {
    asked.push(() => answer(x));
    if (asked.length === 3) for (const give of asked.reverse()) give();
  });
  deepStrictEqual(await Promise.all(range(3).map((x) => ask(socket, 'ask-me', x))), [[0], [1], [2]]);
}

export async function acknowledgementNever(world) {
  const socket = await world.open();
  await rejects(socket.timeout(100).emitWithAck('silent', 1), /timed? ?out/);
  deepStrictEqual(await socket.timeout(10_000).emitWithAck('echo', 'next'), 'next');
}

export async function acknowledgementUnasked(world) {
  const socket = await world.open();
  for (const id of [0, 7, 2 ** 31, 2 ** 53 - 2]) {
    socket.packet({ type: 3, id, data: ['nobody asked'] });
  }
  deepStrictEqual(await ask(socket, 'echo', 'untouched'), ['untouched']);
}

export async function eventUnknown(world) {
  const socket = await world.open();
  socket.emit('no-such-event', 1);
  deepStrictEqual(await ask(socket, 'echo', 'untouched'), ['untouched']);
}

export async function volatileEvents(world) {
  const socket = await world.open();
  const heard = hear(socket, 'echo-event-back');
  // The client leaves them out while a post of it is on its way.
  while (!socket.io.engine.transport.writable) await new Promise(setImmediate);
  socket.volatile.emit('echo-event', 'volatile');
  await heardExactly(socket, heard, [['echo-event-back', 'volatile']]);
}

export async function payloadLarge(world) {
  const socket = await world.open();
  const bytes = socket.io.engine._maxPayload - 500;
  for (const text of ['x'.repeat(bytes), '💥'.repeat(Math.floor(bytes / 4))]) {
    // A polling client sends binary packets as base64.
    const part = world.parser === 'msgpack' && world.transport !== 'websocket' ? 0.75 : 1;
    const cut = text.slice(0, Math.floor((text.length * part) / 2) * 2);
    const [back] = await ask(socket, 'echo', cut);
    ok(back === cut);
  }
}

export async function payloadTooLarge(world) {
  const other = await world.open();
  const socket = await world.open('/', { reconnection: false });
  const gone = once(socket, 'disconnect');
  socket.emit('echo', 'x'.repeat(socket.io.engine._maxPayload + 1), () => {});
  await gone;
  deepStrictEqual(await ask(other, 'echo', 'untouched'), ['untouched']);
  socket.connect();
  await once(socket, 'connect');
  equal((await ask(socket, 'echo', 'again'))[0], 'again');
}
