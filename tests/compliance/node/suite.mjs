// Against socketio_suite.py: what the protocol's own test suite asks of a server, said by the client.
import { deepStrictEqual, equal } from 'node:assert/strict';
import { ask, once } from './world.mjs';

const BYTES = Buffer.from([0, 1, 2, 255]);

async function enter(world, namespace, auth) {
  const socket = world.dial(namespace);
  socket.auth = auth;
  const told = once(socket, 'auth');
  socket.connect();
  return { socket, told: await told };
}

export async function suiteAuth(world) {
  for (const namespace of ['/', '/custom']) {
    deepStrictEqual((await enter(world, namespace, undefined)).told, [{}]);
    deepStrictEqual((await enter(world, namespace, { token: 123, list: ['é'] })).told, [{ token: 123, list: ['é'] }]);
  }
}

export async function suiteMessages(world) {
  const { socket } = await enter(world, '/', {});
  for (const values of [[], [1, '2', { 3: [null] }], [BYTES, { BYTES }, 'text']]) {
    const back = once(socket, 'message-back');
    socket.emit('message', ...values);
    deepStrictEqual(await back, values);
    deepStrictEqual(await ask(socket, 'message-with-ack', ...values), values);
  }
}

export async function suiteNamespaceInvalid(world) {
  const socket = world.dial('/random');
  const refusal = once(socket, 'connect_error');
  socket.connect();
  equal((await refusal)[0].message, 'Invalid namespace');
}
