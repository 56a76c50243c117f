"""websockets: the echo server of its front page."""

import asyncio
import logging
import sys

from websockets.asyncio.server import serve


async def echo(socket):
    async for message in socket:
        await socket.send(message)


async def main():
    logging.getLogger('websockets').addHandler(logging.NullHandler())
    logging.getLogger('websockets').propagate = False
    async with serve(echo, '127.0.0.1', int(sys.argv[1])) as server:
        await server.serve_forever()


asyncio.run(main())
