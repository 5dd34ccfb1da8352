// Socket.IO on Node, both transports, its users let in by an HS256 token: rooms and acknowledgements.
//
//     SECRET=... node socketio_app.js PORT
//
// The token is checked with what Node brings, which costs the least.
const http = require('http');
const { createHmac, timingSafeEqual } = require('crypto');
const { Server } = require('socket.io');

const port = Number(process.argv[2]);
const secret = process.env.SECRET;
const server = http.createServer();
server.keepAliveTimeout = 60_000;
const io = new Server(server, { maxHttpBufferSize: 100_000 });

function verify(token) {
  const [header, claims, signature] = token.split('.');
  const right = createHmac('sha256', secret).update(`${header}.${claims}`).digest();
  const given = Buffer.from(signature, 'base64url');
  if (given.length !== right.length || !timingSafeEqual(given, right)) throw new Error('unauthorized');
  const { sub, exp } = JSON.parse(Buffer.from(claims, 'base64url'));
  if (typeof sub !== 'string' || exp * 1000 < Date.now()) throw new Error('unauthorized');
  return sub;
}

io.use((socket, next) => {
  try {
    socket.data.user = verify(socket.handshake.auth.token);
    next();
  } catch (error) {
    next(error);
  }
});

io.on('connection', (socket) => {
  socket.join('everybody');
  socket.on('pub', (message) => io.to('everybody').emit('msg', message));
  socket.on('echo', (message, acknowledge) => acknowledge(message));
});

server.listen({ port, host: '127.0.0.1', backlog: 4096 });
