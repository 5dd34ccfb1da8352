// Who gets in, where, and what is said on the way.
import { deepStrictEqual, equal, notEqual, ok } from 'node:assert/strict';
import { TOKEN, ask, once, upgraded } from './world.mjs';

export async function welcome(world) {
  const socket = await world.open();
  deepStrictEqual(socket.welcome, { sid: socket.id, auth: { token: TOKEN } });
}

export async function welcomeInNamespace(world) {
  const auth = { token: TOKEN, name: 'Zoë', list: [1, { deep: null }] };
  const socket = await world.open('/chat', { auth });
  deepStrictEqual(socket.welcome, { sid: socket.id, auth });
}

export async function authOfFunction(world) {
  const socket = await world.open('/', { auth: (tell) => setImmediate(tell, { token: TOKEN, late: true }) });
  deepStrictEqual(socket.welcome.auth, { token: TOKEN, late: true });
}

async function expectRefusal(world, namespace, auth) {
  const socket = world.dial(namespace);
  socket.auth = auth;
  const refusal = once(socket, 'connect_error');
  socket.connect();
  const [error] = await refusal;
  equal(error.message, 'unauthorized');
  deepStrictEqual(error.data, { code: 401 });
  equal(socket.connected, false);
}

export async function authRefused(world) {
  await expectRefusal(world, '/', { token: 'another' });
  await expectRefusal(world, '/chat', { token: 'another' });
}

export async function authMissing(world) {
  await expectRefusal(world, '/', {});
  await expectRefusal(world, '/chat', undefined);
}

export async function authRefusedThenRight(world) {
  const socket = world.dial('/', { auth: { token: 'another' } });
  const refusal = once(socket, 'connect_error');
  socket.connect();
  await refusal;
  socket.auth = { token: TOKEN };
  socket.connect();
  await once(socket, 'connect');
  deepStrictEqual(await ask(socket, 'echo', 1), [1]);
}

export async function namespaceInvalid(world) {
  const root = await world.open();
  const socket = world.dial('/nowhere', { manager: root.io });
  const refusal = once(socket, 'connect_error');
  socket.connect();
  const [error] = await refusal;
  equal(error.message, 'Invalid namespace');
  equal(error.data, undefined);
  deepStrictEqual(await ask(root, 'echo', 'untouched'), ['untouched']);
}

export async function namespacesAtOnce(world) {
  const root = await world.open();
  const chat = await world.open('/chat', { manager: root.io });
  equal(chat.io.engine.id, root.io.engine.id);
  notEqual(chat.id, root.id);
  const answers = [];
  for (let number = 0; number < 20; number++) {
    answers.push(ask(root, 'echo', 'root', number), ask(chat, 'echo', 'chat', number));
  }
  deepStrictEqual(
    await Promise.all(answers),
    answers.map((_, at) => [at % 2 ? 'chat' : 'root', Math.floor(at / 2)]),
  );
}

export async function namespacesRefusedAndEntered(world) {
  const root = await world.open();
  const refused = world.dial('/chat', { manager: root.io, auth: { token: 'another' } });
  const refusal = once(refused, 'connect_error');
  refused.connect();
  await refusal;
  deepStrictEqual(await ask(root, 'echo', 'still here'), ['still here']);
}

export async function transportTold(world) {
  const socket = await world.open();
  if (world.transport === 'upgrade') await upgraded(socket);
  deepStrictEqual(await ask(socket, 'transport'), [world.transport === 'polling' ? 'polling' : 'websocket']);
}

export async function transportBeforeUpgrade(world) {
  if (world.transport !== 'upgrade') return;
  const socket = await world.open('/', { upgrade: false });
  deepStrictEqual(await ask(socket, 'transport'), ['polling']);
}

export async function handshakeAnnounced(world) {
  const { engine } = (await world.open()).io;
  ok(engine._maxPayload > 0);
  ok(engine._pingInterval > 0);
  ok(engine._pingTimeout > 0);
}
