"""Tornado: the WebSocket of its documentation, which sends messages back."""

import asyncio
import sys

import tornado.web
import tornado.websocket


class Echo(tornado.websocket.WebSocketHandler):
    async def on_message(self, message):
        await self.write_message(message, binary=isinstance(message, bytes))


async def main():
    tornado.web.Application([('/', Echo)]).listen(int(sys.argv[1]), '127.0.0.1')
    await asyncio.Event().wait()


asyncio.run(main())
