// Socket.IO on Node, WebSocket transport.
const http = require('http');
const { Server } = require('socket.io');

const [port, mode] = [Number(process.argv[2]), process.argv[3]];
const server = http.createServer();
const io = new Server(server, { transports: ['websocket'] });

io.on('connection', (socket) => {
  socket.join('room');
  socket.on('pub', (message) => {
    if (mode === 'echo') socket.emit('msg', message);
    else io.to('room').emit('msg', message);
  });
});

server.listen({ port, host: '127.0.0.1', backlog: 4096 });
