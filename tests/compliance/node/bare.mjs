// Engine.IO alone, against engineio_suite.py: every message comes back as it went.
import { deepStrictEqual, equal, ok } from 'node:assert/strict';
import { Socket } from 'engine.io-client';
import { TRANSPORTS, range } from './world.mjs';

function dial(world) {
  const socket = new Socket(world.url, { path: '/engine.io/', transports: TRANSPORTS[world.transport] });
  world.atEnd(() => socket.close());
  const heard = [];
  socket.on('message', (data) => heard.push(data));
  return { socket, heard };
}

async function open(world) {
  const { socket, heard } = dial(world);
  await next(socket, 'open');
  return { socket, heard };
}

function next(socket, event) {
  return new Promise((resolve, reject) => {
    socket.once(event, resolve);
    socket.once('error', reject);
    if (event !== 'close') socket.once('close', (reason, detail) => reject(new Error(`closed: ${reason} ${detail?.context?.code ?? ''}`)));
  });
}

async function upgraded(world, socket) {
  if (world.transport === 'upgrade' && socket.transport.name !== 'websocket') await next(socket, 'upgrade');
}

async function heardExactly(socket, heard, expected) {
  while (heard.length < expected.length) await next(socket, 'message');
  socket.send('barrier');
  while (heard.at(-1) !== 'barrier') await next(socket, 'message');
  deepStrictEqual(heard, [...expected, 'barrier']);
}

export async function bareHandshake(world) {
  const { socket } = await open(world);
  ok(/^[\w-]{16,}$/.test(socket.id));
  equal(socket._pingInterval, 300);
  equal(socket._pingTimeout, 200);
  equal(socket._maxPayload, 1_000_000);
}

export async function bareEcho(world) {
  const { socket, heard } = await open(world);
  const texts = ['text', 'äöü日本語💥', '\u0000\u2028"\\', '4', 'b4'];
  const values = [...texts, Buffer.from([0, 30, 255]), Buffer.alloc(0), Buffer.from('text')];
  for (const value of values) socket.send(value);
  await heardExactly(socket, heard, values);
}

export async function bareOrder(world) {
  const { socket, heard } = dial(world);
  await next(socket, 'open');
  const values = range(1000).map((number) => (number % 5 ? `n${number}` : Buffer.from([number & 255])));
  for (const [at, value] of values.entries()) {
    socket.send(value);
    if (at % 50 === 0) await new Promise(setImmediate);
  }
  await upgraded(world, socket);
  await heardExactly(socket, heard, values);
}

export async function bareLarge(world) {
  const { socket, heard } = await open(world);
  const values = ['x'.repeat(300_000), Buffer.alloc(200_000, 7)];
  for (const value of values) socket.send(value);
  await heardExactly(socket, heard, values);
}

export async function bareHeartbeat(world) {
  const { socket, heard } = await open(world);
  await upgraded(world, socket);
  for (const _ of range(4)) await next(socket, 'ping');
  await heardExactly(socket, heard, []);
}

export async function bareMany(world) {
  const all = await Promise.all(range(10).map(() => open(world)));
  for (const [at, { socket }] of all.entries()) for (const number of range(5)) socket.send(`${at}:${number}`);
  await Promise.all(
    all.map(({ socket, heard }, at) =>
      heardExactly(
        socket,
        heard,
        range(5).map((number) => `${at}:${number}`),
      ),
    ),
  );
}

export async function bareClosed(world) {
  for (const number of range(10)) {
    const { socket } = await open(world);
    if (number % 2) socket.send('on its way');
    const closed = next(socket, 'close');
    socket.close();
    equal(await closed, 'forced close');
  }
}
