// Polling becomes WebSocket while events are on their way, both ways: none lost, none twice, all in order.
// Over one transport the same holds, without the upgrade.
import { deepStrictEqual } from 'node:assert/strict';
import { ask, hear, heardExactly, once, range, upgraded } from './world.mjs';

export async function eventsWhileUpgrading(world) {
  for (const spread of [1000, 100, 10]) {
    const socket = world.dial();
    const heard = hear(socket, 'echo-event-back');
    const connected = once(socket, 'connect');
    socket.connect();
    await connected;
    for (const number of range(1000)) {
      socket.emit('echo-event', number);
      // Turns of the loop between them, so that the upgrade falls among them wherever it may.
      if (number % spread === spread - 1) await new Promise(setImmediate);
    }
    if (world.transport === 'upgrade') await upgraded(socket);
    await heardExactly(
      socket,
      heard,
      range(1000).map((number) => ['echo-event-back', number]),
    );
    socket.disconnect();
  }
}

export async function binaryWhileUpgrading(world) {
  const socket = world.dial();
  const heard = hear(socket, 'echo-event-back');
  const connected = once(socket, 'connect');
  socket.connect();
  await connected;
  const values = range(400).map((number) => (number % 2 ? [Buffer.from([number & 255]), number] : number));
  for (const value of values) socket.emit('echo-event', value);
  if (world.transport === 'upgrade') await upgraded(socket);
  await heardExactly(
    socket,
    heard,
    values.map((value) => ['echo-event-back', value]),
  );
}

// The room's messages come from another while its members upgrade.
export async function roomWhileUpgrading(world) {
  const sender = await world.open();
  const room = `upgrading ${sender.id}`;
  const members = range(10).map(() => world.dial());
  const heard = members.map((member) => hear(member, 'room-msg'));
  await Promise.all(
    members.map(async (member) => {
      const connected = once(member, 'connect');
      member.connect();
      await connected;
      deepStrictEqual(await ask(member, 'join', room), ['ok']);
      // Each hears everything from its own joining on, without a hole, to the last.
      await ask(member, 'to-room', room, 'mark');
    }),
  );
  for (const number of range(200)) await ask(sender, 'to-room', room, number);
  for (const [at, member] of members.entries()) {
    if (world.transport === 'upgrade') await upgraded(member);
    await ask(member, 'echo', 'barrier');
    const numbers = heard[at].map((message) => message[2]).filter((payload) => payload !== 'mark');
    deepStrictEqual(numbers, range(200));
  }
}

export async function acknowledgementsWhileUpgrading(world) {
  const socket = world.dial();
  socket.on('question', (x, answer) => answer(-x));
  const connected = once(socket, 'connect');
  socket.connect();
  await connected;
  const answers = await Promise.all(range(200).map((number) => ask(socket, 'ask-me', number + 1)));
  deepStrictEqual(
    answers,
    range(200).map((number) => [-number - 1]),
  );
}
