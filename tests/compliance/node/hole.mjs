// A way to the server that can go deaf, and be cut without a word.
import net from 'node:net';

export class Hole {
  constructor(url) {
    this.target = Number(new URL(url).port);
    this.pairs = new Set();
    this.deaf = false;
    this.server = net.createServer((client) => this.#join(client));
  }

  async listen() {
    await new Promise((resolve) => this.server.listen(0, '127.0.0.1', resolve));
    return `http://127.0.0.1:${this.server.address().port}`;
  }

  #join(client) {
    const server = net.connect(this.target, '127.0.0.1');
    const pair = { client, server, posts: false };
    this.pairs.add(pair);
    client.on('data', (data) => {
      const method = data.subarray(0, 4).toString();
      if (method === 'POST' || method === 'GET ') pair.posts = method === 'POST';
      server.write(data);
    });
    // Answers to what the client posts still come, or it would not post again.
    server.on('data', (data) => (this.deaf && !pair.posts) || client.write(data));
    client.on('error', () => {});
    server.on('error', () => {});
    client.on('close', () => {
      server.destroy();
      this.pairs.delete(pair);
    });
    // Nor is it heard that the server closed behind its answer.
    server.on('close', () => (this.deaf && !pair.posts) || client.destroy());
  }

  /** Reset every connection, on both sides. */
  cut() {
    for (const { client, server } of this.pairs) {
      client.resetAndDestroy();
      server.resetAndDestroy();
    }
    this.deaf = false;
  }

  close() {
    this.server.close();
    this.cut();
  }
}
