// ws: the server of its front page, which sends messages back.
import { createRequire } from 'node:module'

const { WebSocketServer } = createRequire(process.argv[3] + '/')('ws')
const server = new WebSocketServer({ host: '127.0.0.1', port: Number(process.argv[2]) })
server.on('connection', (socket) => {
  socket.on('error', () => {})
  socket.on('message', (message, isBinary) => socket.send(message, { binary: isBinary }))
})
