#!/usr/bin/env python3
"""The Python client `websockets` against a running echo: websockets_client.py [--message-max BYTES] ws://HOST:PORT/echo

Each check is a coroutine whose name is the fact that it checks. Exit 1 if one fails.
"""

import argparse
import asyncio
import os
import random
import sys
import time
import traceback
from urllib.parse import urlsplit

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

URL = ""
MESSAGE_MAX = 0


def client(**options):
    """A connection without a limit of the client's own, so that every limit seen is the server's."""
    return connect(URL, **{"max_size": None, "proxy": None, "open_timeout": 10, "close_timeout": 10, **options})


async def echoes(connection, message):
    await connection.send(message)
    answer = await connection.recv()
    assert type(answer) is type(message), f"sent {type(message).__name__}, got {type(answer).__name__}"
    assert answer == message, f"{len(message)} came back as {len(answer)}, or changed"


async def text_and_binary_come_back_as_such():
    async with client() as connection:
        await echoes(connection, "hello")
        await echoes(connection, "κόσμε, 🦀 and \0")
        await echoes(connection, b"\x00\xff\x80")


async def every_size_up_to_1_mib_comes_back():
    # The lengths where the header or the server's buffers change, and their neighbours.
    sizes = {0, 1, 1 << 20}
    for edge in (125, 126, 512, 1024, 4096, 16384, 65535, 65536, 131072, 1 << 20):
        sizes |= {edge - 1, edge, edge + 1}
    async with client(compression=None) as connection:
        for size in sorted(size for size in sizes if size <= 1 << 20):
            await echoes(connection, os.urandom(size))
            await echoes(connection, "é" * (size // 2) + "x" * (size % 2))


async def a_fragmented_message_comes_back_whole():
    async def fragments():
        for number in range(100):
            yield f"{number} µ "
            if number % 10 == 0:
                await asyncio.sleep(0)

    async with client() as connection:
        await connection.send(fragments())
        assert await connection.recv() == "".join([f"{number} µ " for number in range(100)])
        await connection.send([b"a", b"", b"b" * 70000, b""])
        assert await connection.recv() == b"ab" + b"b" * 69999


async def a_ping_is_answered_with_its_payload():
    async with client() as connection:
        for payload in (b"", b"x", b"\x00" * 125, "pîng"):
            await (await connection.ping(payload))   # resolves only for a pong with this very payload
        await echoes(connection, "after the pings")


async def a_ping_between_fragments_is_answered_before_the_message_ends():
    async with client() as connection:
        answered = asyncio.Event()

        async def fragments():
            yield "be"
            await (await connection.ping(b"now"))
            answered.set()
            yield "fore"

        await connection.send(fragments())
        assert answered.is_set()
        assert await connection.recv() == "before"


async def no_subprotocol_is_chosen():
    async with client() as connection:
        assert connection.subprotocol is None
    async with client(subprotocols=["chat", "superchat"]) as connection:
        assert connection.subprotocol is None, connection.subprotocol
        await echoes(connection, "without")


async def a_close_is_answered_with_its_code():
    for code, reason in ((1000, ""), (1000, "done"), (3000, "registered"), (4999, "private"), (1001, "away")):
        connection = await client()
        await connection.close(code, reason)
        assert connection.close_code == code, (code, connection.close_code)
        closed = connection.protocol.close_rcvd
        assert closed and closed.code == code, f"{code} was answered with {closed}"
    # And one without a code is answered, by 1000 or without a code, rather than by a cut.
    connection = await client()
    connection.protocol.send_close()
    connection.transport.writelines(connection.protocol.data_to_send())
    await asyncio.wait_for(connection.wait_closed(), 10)
    assert connection.protocol.close_rcvd is not None and connection.protocol.close_rcvd.code in (1000, 1005)


async def the_closing_handshake_is_quick():
    connection = await client()
    await echoes(connection, "hello")
    started = time.monotonic()
    await connection.close()
    assert time.monotonic() - started < 2, "the close took over 2 s"


async def fifty_connections_with_200_messages_each_are_verified():
    async def one(number):
        rng = random.Random(number)
        async with client(compression=None) as connection:
            async def send():
                generator = random.Random(number)
                for _ in range(200):
                    await connection.send(generator.randbytes(generator.randrange(2000)))

            sender = asyncio.create_task(send())
            for message in range(200):
                expected = rng.randbytes(rng.randrange(2000))
                assert await connection.recv() == expected, f"connection {number}, message {message}"
            await sender

    await asyncio.gather(*(one(number) for number in range(50)))


async def a_message_over_the_limit_is_closed_with_1009():
    if not MESSAGE_MAX:
        raise Skipped("--message-max was not given")
    async with client(compression=None) as connection:
        await echoes(connection, b"x" * MESSAGE_MAX)
    await closed_with_1009(b"x" * (MESSAGE_MAX + 1))
    half = MESSAGE_MAX // 2 + 1
    await closed_with_1009([b"x" * half, b"x" * half])


async def closed_with_1009(message):
    connection = await client(compression=None)
    try:
        # The server may close while we still send; what counts is the code that it gave.
        try:
            await connection.send(message)
            await connection.recv()
        except ConnectionClosed:
            pass
        else:
            raise AssertionError("it was echoed")
        closed = connection.protocol.close_rcvd
        assert closed and closed.code == 1009, f"closed with {closed}"
    finally:
        await connection.close()


async def compression_may_be_offered():
    for compression in ("deflate", None):
        async with client(compression=compression) as connection:
            print(f"        offered {compression}, agreed on {connection.response.headers.get('Sec-WebSocket-Extensions', 'nothing')}")
            for _ in range(3):
                await echoes(connection, "a" * 100_000)
                await echoes(connection, os.urandom(10_000))


async def an_origin_of_another_host_is_refused_with_a_reason():
    try:
        async with client(origin="http://elsewhere.example"):
            raise AssertionError("it was accepted")
    except InvalidStatus as refused:
        response = refused.response
    print(f"        {response.status_code} {response.reason_phrase}")
    for name, value in response.headers.raw_items():
        print(f"        {name}: {value}")
    body = (response.body or b"").decode()
    print("        " + body.strip().replace("\n", "\n        "))
    assert response.status_code == 403, response.status_code
    assert "origin" in body.lower() or "origin" in str(response.headers).lower(), "the answer does not say that it is the origin"


async def an_origin_of_this_host_is_accepted():
    async with client(origin=URL.replace("ws", "http", 1).removesuffix(urlsplit(URL).path)) as connection:
        await echoes(connection, "same origin")


class Skipped(Exception):
    pass


CHECKS = [
    text_and_binary_come_back_as_such,
    every_size_up_to_1_mib_comes_back,
    a_fragmented_message_comes_back_whole,
    a_ping_is_answered_with_its_payload,
    a_ping_between_fragments_is_answered_before_the_message_ends,
    no_subprotocol_is_chosen,
    a_close_is_answered_with_its_code,
    the_closing_handshake_is_quick,
    fifty_connections_with_200_messages_each_are_verified,
    a_message_over_the_limit_is_closed_with_1009,
    compression_may_be_offered,
    an_origin_of_another_host_is_refused_with_a_reason,
    an_origin_of_this_host_is_accepted,
]


async def main():
    global URL, MESSAGE_MAX
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--message-max", type=int, default=0, help="the server's limit, in bytes")
    options = parser.parse_args()
    URL, MESSAGE_MAX = options.url, options.message_max

    passed = failed = skipped = 0
    for check in CHECKS:
        started = time.monotonic()
        try:
            await asyncio.wait_for(check(), 60)
            result, passed = "ok", passed + 1
        except Skipped as why:
            result, skipped = f"skipped: {why}", skipped + 1
        except Exception:
            traceback.print_exc(file=sys.stdout)
            result, failed = "FAILED", failed + 1
        print(f"{result:7} {check.__name__} ({time.monotonic() - started:.1f} s)")
    print(f"websockets: {passed} checks ok, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
