// Drive one of the programs of this folder with the clients of Socket.IO, and print a JSON line a scenario.
//
//     node drive.mjs URL [--program check_app|recovery|socketio_suite|engineio_suite]
//         [--transport websocket|polling|upgrade] [--parser default|msgpack] [SCENARIO ...]
//
// `recovery` is check_app with its option of that name; `upgrade` begins with polling and goes on over WebSocket.
// Ends with 1 if a scenario failed.
import { parseArgs } from 'node:util';
import * as bare from './bare.mjs';
import * as binary from './binary.mjs';
import * as connecting from './connecting.mjs';
import * as ending from './ending.mjs';
import * as events from './events.mjs';
import * as recovery from './recovery.mjs';
import * as rooms from './rooms.mjs';
import * as suite from './suite.mjs';
import * as upgrading from './upgrading.mjs';
import { World } from './world.mjs';

const DEADLINE_MS = 20_000;

const SCENARIOS = {
  check_app: { ...connecting, ...events, ...binary, ...rooms, ...ending, ...upgrading },
  recovery,
  socketio_suite: suite,
  engineio_suite: bare,
};

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    transport: { type: 'string', default: 'websocket' },
    parser: { type: 'string', default: 'default' },
    program: { type: 'string', default: 'check_app' },
  },
});
const [url, ...wanted] = positionals;

const kebab = (name) => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

async function run(scenario) {
  const world = new World(url, values.transport, values.parser);
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done after ${DEADLINE_MS} ms`)), DEADLINE_MS);
  });
  try {
    await Promise.race([scenario(world), late]);
    return null;
  } catch (error) {
    return String(error?.stack ?? error);
  } finally {
    clearTimeout(timer);
    world.end();
  }
}

let failed = 0;
for (const [name, scenario] of Object.entries(SCENARIOS[values.program])) {
  if (wanted.length && !wanted.includes(kebab(name))) continue;
  const begun = performance.now();
  const error = await run(scenario);
  failed += error !== null;
  console.log(JSON.stringify({ scenario: kebab(name), error, ms: Math.round(performance.now() - begun) }));
}
process.exit(failed ? 1 : 0);
