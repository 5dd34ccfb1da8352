// What the scenarios share: clients of one server, connected in one way, and means to wait for what it says.
import { deepStrictEqual } from 'node:assert/strict';
import { io } from 'socket.io-client';
import msgpackParser from 'socket.io-msgpack-parser';

export const TRANSPORTS = {
  websocket: ['websocket'],
  polling: ['polling'],
  upgrade: ['polling', 'websocket'],
};

export const TOKEN = 'lab-token';

export class World {
  /**
   * @param {string} url of the server
   * @param {'websocket'|'polling'|'upgrade'} transport how every client of this world connects
   * @param {'default'|'msgpack'} parser of every client
   */
  constructor(url, transport, parser) {
    this.url = url;
    this.transport = transport;
    this.parser = parser;
    this.ending = [];
  }

  /** Make a client that has not connected yet; it has a connection of its own unless `manager` is given. */
  dial(namespace = '/', { auth = { token: TOKEN }, manager, url = this.url, ...options } = {}) {
    const socket = manager
      ? manager.socket(namespace, { auth })
      : io(url + namespace, {
          auth,
          autoConnect: false,
          forceNew: true,
          transports: TRANSPORTS[this.transport],
          reconnectionDelay: 20,
          reconnectionDelayMax: 50,
          ...(this.parser === 'msgpack' ? { parser: msgpackParser } : {}),
          ...options,
        });
    this.atEnd(() => socket.disconnect());
    return socket;
  }

  /** Connect a client and keep what `welcome` told it as `socket.welcome`. */
  async open(namespace = '/', options = {}) {
    const socket = this.dial(namespace, options);
    const welcome = once(socket, 'welcome');
    socket.connect();
    [socket.welcome] = await welcome;
    return socket;
  }

  openMany(count, namespace = '/') {
    return Promise.all(Array.from({ length: count }, () => this.open(namespace)));
  }

  atEnd(call) {
    this.ending.push(call);
  }

  end() {
    for (const call of this.ending.splice(0)) call();
  }
}

/** The arguments of the next event of that name; an error where the client is refused instead. */
export function once(socket, event) {
  return new Promise((resolve, reject) => {
    const refused = (error) => reject(error);
    if (event !== 'connect_error') socket.once('connect_error', refused);
    socket.once(event, (...args) => {
      socket.off('connect_error', refused);
      resolve(args);
    });
  });
}

/** Ask and return the acknowledgement's arguments. */
export function ask(socket, event, ...args) {
  return new Promise((resolve) => socket.emit(event, ...args, (...answer) => resolve(answer)));
}

/** Everything of some events from now on, each as [event, ...arguments]. */
export function hear(socket, ...events) {
  const heard = [];
  heard.waiting = [];
  for (const event of events) {
    socket.on(event, (...args) => {
      heard.push([event, ...args]);
      for (const look of heard.waiting) look();
    });
  }
  return heard;
}

/** Wait until so many were heard, then go once to the server and back: what came twice has come by then. */
export async function heardExactly(socket, heard, expected) {
  await new Promise((resolve) => {
    const look = () => heard.length >= expected.length && resolve();
    heard.waiting.push(look);
    look();
  });
  await ask(socket, 'echo', 'barrier');
  deepStrictEqual([...heard], expected);
}

/** Wait until this client's connection has become a WebSocket one. */
export async function upgraded(socket) {
  const { engine } = socket.io;
  if (engine.transport.name !== 'websocket') await new Promise((resolve) => engine.once('upgrade', resolve));
}

export const range = (count) => Array.from({ length: count }, (_, number) => number);
