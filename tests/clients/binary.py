#!/usr/bin/env python3
"""The program from outside: binary.py [--driver auto|uring|epoll] [--only NAME] PROGRAM

Starts the program itself, on loopback, and speaks to it with plain sockets; Python's standard library is all it
needs. Each check is a function whose name is the fact that it checks. Exit 1 if one fails.
"""

import argparse
import base64
import hashlib
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback

PROGRAM = ""
DRIVER = "auto"

PANIC = re.compile(r"panicked at|stack backtrace|RUST_BACKTRACE|unwrap\(\)")


# ---- the command line -------------------------------------------------------------------------------------

def help_works():
    for flag in ("--help", "-h"):
        done = run(flag)
        assert done.returncode == 0, said(done)
        for option in ("--listen", "--threads", "--driver", "--drain-time", "--message-max", "--log"):
            assert option in done.stdout, f"{flag} does not tell of {option}\n{said(done)}"


def version_works():
    done = run("--version")
    assert done.returncode == 0 and re.search(r"switchpoint \d+\.\d+\.\d+", done.stdout), said(done)


def a_wrong_option_is_an_error_of_usage():
    for arguments in (["--lisen", "127.0.0.1:0"], ["--driver", "kqueue"], ["--drain-time", "soon"], ["--message-max", "lots"]):
        done = run(*arguments)
        wrong = arguments[0] if arguments[0] == "--lisen" else arguments[1]
        assert done.returncode == 2, said(done)
        assert wrong in done.stderr, f"the message does not name {wrong!r}\n{said(done)}"
        no_panic(done.stdout + done.stderr)


def a_bad_address_is_named():
    for address in ("nonsense", "127.0.0.1:99999"):
        done = run("--listen", address)
        assert done.returncode not in (0, 101), said(done)
        assert address in done.stderr + done.stdout, said(done)
        no_panic(done.stdout + done.stderr)


def a_port_in_use_is_said_so():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        done = run("--driver", DRIVER, "--listen", address)
        output = done.stdout + done.stderr
        assert done.returncode not in (0, 101), said(done)
        assert "in use" in output.lower() and address in output, said(done)
        no_panic(output)


# ---- a start and an end -----------------------------------------------------------------------------------

def the_start_line_tells_what_runs():
    for driver in dict.fromkeys((DRIVER, "epoll")):
        with Server("--threads", "2", driver=driver) as server:
            wanted = {
                "the driver": r"\bepoll\b" if driver == "epoll" else r"uring|epoll",
                "the workers": r"\b2\b[^\d]{0,12}(worker|thread|core)|(worker|thread|core)s?\W{0,3}2\b",
                "the address": re.escape(f"127.0.0.1:{server.port}") + r"\b",
                "websocket": r"websocket",
                "echo": r"\becho\b",
            }
            lines = server.output().splitlines()
            found = max(lines or [""], key=lambda line: sum(bool(re.search(w, line, re.I)) for w in wanted.values()))
            missing = [what for what, pattern in wanted.items() if not re.search(pattern, found, re.I)]
            assert not missing, f"no line tells it all; the nearest lacks {', '.join(missing)}: {found!r}"
            print(f"        {found}")
            with Echo(server.port) as echo:
                echo.check()


def sigterm_drains():
    drains(signal.SIGTERM)


def ctrl_c_drains():
    drains(signal.SIGINT)


def drains(number):
    with Server("--drain-time", "5s") as server, WebSocket(server.port) as ws, Echo(server.port) as echo:
        ws.check()
        echo.check()
        started = time.monotonic()
        server.process.send_signal(number)

        # The goodbyes may be spread over the drain time, so each peer waits for its own.
        def echo_waits():
            assert echo.socket.recv(100) == b"", "the echo got bytes, not its end"
            echo.socket.close()

        waiting = Background(echo_waits)
        opcode, payload = ws.receive()
        assert (opcode, payload[:2]) == (CLOSE, struct.pack("!H", 1001)), f"opcode {opcode}, {payload!r}"
        ws.send(CLOSE, payload[:2])
        assert ws.socket.recv(100) == b"", "bytes after the close"
        ws.socket.close()
        waiting.join()
        code = server.wait(8)
        took = time.monotonic() - started
        assert code == 0, f"exit code {code}\n{server.output()}"
        assert took < 6.5, f"it took {took:.1f} s"
        cleanly, cut = server.last_counts()
        assert cleanly >= 2 and cut == 0, f"2 peers went in peace, but: {server.last_line()!r}"
        print(f"        {took:.1f} s; {server.last_line()}")


def an_idle_server_stops_at_once():
    for number in (signal.SIGTERM, signal.SIGINT):
        with Server("--drain-time", "30s") as server:
            server.process.send_signal(number)
            code = server.wait(3)
            assert code == 0, f"exit code {code}\n{server.output()}"


def a_second_signal_ends_it_at_once():
    with Server("--drain-time", "30s") as server, WebSocket(server.port) as ws:
        ws.check()
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.7)   # ws never answers its close
        assert server.process.poll() is None, f"it did not wait for its peer\n{server.output()}"
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        code = server.wait(2)
        print(f"        ended after {time.monotonic() - started:.2f} s with exit code {code}")
        no_panic(server.output())


def a_peer_that_never_reads_is_cut_when_the_time_is_over():
    with Server("--drain-time", "2s") as server, WebSocket(server.port, receive_buffer=4096) as ws:
        ws.check()
        ws.stuff(seconds=10)
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        code = server.wait(6)
        took = time.monotonic() - started
        assert code >= 0 and code != 101, f"exit code {code}\n{server.output()}"
        _, cut = server.last_counts()
        assert cut >= 1, f"it was cut, but: {server.last_line()!r}"
        print(f"        {took:.1f} s, exit code {code}; {server.last_line()}")


# ---- memory -----------------------------------------------------------------------------------------------

RSS_GROWTH_MAX = 32 << 20


def a_header_of_1_mib_is_431_and_costs_no_memory():
    with Server() as server:
        with Echo(server.port) as echo:
            echo.check()
            before = server.rss()
            for _ in range(20):
                answer = big_header(server.port)
                assert re.match(rb"HTTP/1\.1 431 ", answer), f"{answer[:200]!r}"
            grown = server.rss() - before
            echo.check()
            print(f"        RSS {before >> 10} KiB, grown by {grown >> 10} KiB")
            assert grown < RSS_GROWTH_MAX, f"grown by {grown} bytes"


def big_header(port):
    """The answer to it, which may come long before all is sent."""
    unsent = memoryview(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Big: " + b"a" * (1 << 20) + b"\r\n\r\n")
    answer = b""
    with connected(port) as peer:
        peer.setblocking(False)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and b"\r\n\r\n" not in answer:
            readable, writable, _ = select.select([peer], [peer] if unsent else [], [], 1)
            if readable:
                try:
                    data = peer.recv(65536)
                except ConnectionError as error:
                    raise AssertionError(f"the connection was reset before its answer ({error})")
                if not data:
                    break
                answer += data
            elif writable:
                try:
                    unsent = unsent[peer.send(unsent[:65536]):]
                except ConnectionError:
                    unsent = unsent[:0]
    return answer


def two_hundred_thousand_fragments_are_closed_and_hurt_no_other():
    fragments = 200_000
    with Server("--threads", "1") as server, Echo(server.port) as echo, WebSocket(server.port) as ws:
        echo.check()
        before, slowest, over = server.rss(), 0.0, threading.Event()

        def other_peer():
            nonlocal slowest
            while not over.is_set():
                started = time.monotonic()
                echo.check()
                slowest = max(slowest, time.monotonic() - started)
                time.sleep(0.005)

        other = Background(other_peer)
        try:
            frame = bytearray(masked(0, b"x", final=False))
            unsent = memoryview(masked(TEXT, b"x", final=False) + bytes(frame) * (fragments - 2) + masked(0, b"x"))
            ws.socket.setblocking(False)
            answer, deadline, peak = b"", time.monotonic() + 20, before
            while time.monotonic() < deadline and not parse(answer):
                readable, writable, _ = select.select([ws.socket], [ws.socket] if unsent else [], [], 1)
                peak = max(peak, server.rss())
                try:
                    if readable:
                        data = ws.socket.recv(65536)
                        if not data:
                            break
                        answer += data
                    elif writable:
                        unsent = unsent[ws.socket.send(unsent[:65536]):]
                except ConnectionError as error:
                    if readable:
                        raise AssertionError(f"the connection was reset before its close ({error})")
                    unsent = unsent[:0]
            time.sleep(0.1)
            peak = max(peak, server.rss())
        finally:
            over.set()
            other.join()
        first = parse(answer)
        assert first, f"no close came, but {answer[:50]!r}"
        opcode, payload, _ = first
        code = struct.unpack("!H", payload[:2])[0] if opcode == CLOSE and len(payload) >= 2 else None
        assert code in (1002, 1008, 1009), f"opcode {opcode}, close code {code}, {len(payload)} bytes"
        print(f"        closed with {code} {payload[2:].decode()!r}; the other's slowest echo {slowest * 1000:.0f} ms; "
              f"RSS {before >> 10} KiB, at most {(peak - before) >> 10} KiB more")
        assert slowest < 1, f"the other peer waited {slowest:.1f} s"
        assert peak - before < RSS_GROWTH_MAX, f"grown by {peak - before} bytes"


# ---- the program, running ---------------------------------------------------------------------------------

def run(*arguments):
    """A run that ends by itself. One that does not is a failure, not a hang."""
    try:
        return subprocess.run([PROGRAM, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"{' '.join(arguments)}: still running after 10 s") from None


def said(done):
    return f"{' '.join(done.args)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"


def no_panic(output):
    assert not PANIC.search(output), output


class Server:
    """The program on a free port, accepting; killed at the end of its `with`, if it is still there."""

    def __init__(self, *flags, driver=None):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.log = tempfile.TemporaryFile()
        command = [PROGRAM, "--listen", f"127.0.0.1:{self.port}", "--driver", driver or DRIVER, *flags]
        # A shell's background commands ignore SIGINT, and so would their children.
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT,
                                        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        try:
            self.accepts(time.monotonic() + 10)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def accepts(self, deadline):
        while True:
            assert self.process.poll() is None, f"it ended at its start with {self.process.returncode}\n{self.output()}"
            assert time.monotonic() < deadline, f"it did not accept within 10 s\n{self.output()}"
            try:
                connected(self.port).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.02)
        while not self.output() and time.monotonic() < deadline:
            time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if kind is not None:
            print("        what the program wrote:\n" + self.output()[-3000:])
        elif self.process.returncode >= 0:
            no_panic(self.output())
        self.log.close()

    def output(self):
        # By position, for the program goes on writing at its own.
        return os.pread(self.log.fileno(), 1 << 20, 0).decode(errors="replace")

    def wait(self, seconds):
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it was still there after {seconds} s") from None

    def rss(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return int(re.search(r"VmRSS:\s+(\d+) kB", status.read())[1]) << 10

    def last_line(self):
        lines = [line for line in self.output().splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def last_counts(self):
        """How many connections the last line says were closed cleanly, and how many were cut."""
        line = re.sub(r"\x1b\[[0-9;]*m", "", self.last_line())
        return count(line, "clean"), count(line, "cut")


def count(line, word):
    """The number of `word=3`, or else the one that comes before the word: `3 closed cleanly`."""
    found = re.search(rf"\b{word}\w*\s*[=:]\s*(\d+)", line, re.I) or re.search(rf"(\d+)\D*?\b{word}", line, re.I)
    assert found, f"the last line does not tell how many were closed cleanly and how many were cut: {line!r}"
    return int(found[1])


# ---- its peers --------------------------------------------------------------------------------------------

TEXT, BINARY, CLOSE = 1, 2, 8


def connected(port, receive_buffer=None):
    peer = socket.socket()
    peer.settimeout(10)
    if receive_buffer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)   # before connect, to bound the window
    try:
        peer.connect(("127.0.0.1", port))
    except BaseException:
        peer.close()
        raise
    return peer


class Upgraded:
    """A connection after its 101."""

    def __init__(self, port, token, headers="", receive_buffer=None):
        self.socket = connected(port, receive_buffer)
        self.socket.sendall((f"GET /echo HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\n"
                             f"Upgrade: {token}\r\n{headers}\r\n").encode())
        self.head = b""
        while not self.head.endswith(b"\r\n\r\n"):
            byte = self.socket.recv(1)   # never more than the head
            assert byte, f"it ended in the head: {self.head!r}"
            self.head += byte
        assert self.head.startswith(b"HTTP/1.1 101 "), f"{self.head!r}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def exactly(self, length):
        data = b""
        while len(data) < length:
            more = self.socket.recv(length - len(data))
            assert more, f"it ended after {len(data)} of {length} bytes"
            data += more
        return data


class Echo(Upgraded):
    def __init__(self, port):
        super().__init__(port, "echo")

    def check(self):
        message = os.urandom(64)
        self.socket.sendall(message)
        assert self.exactly(64) == message, "the echo changed"


class WebSocket(Upgraded):
    def __init__(self, port, receive_buffer=None):
        key = base64.b64encode(os.urandom(16)).decode()
        super().__init__(port, "websocket", f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n", receive_buffer)
        accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())
        assert accept in self.head, f"{self.head!r}"

    def check(self):
        message = base64.b64encode(os.urandom(48))
        self.send(TEXT, message)
        assert self.receive() == (TEXT, message), "the echo changed"

    def send(self, opcode, payload):
        self.socket.sendall(masked(opcode, payload))

    def receive(self):
        frame = b""
        while not (found := parse(frame)):
            frame += self.exactly(1)
        return found[:2]

    def stuff(self, seconds):
        """Sends and never reads, until the server cannot take more since it cannot give more."""
        deadline, frame, offset = time.monotonic() + seconds, masked(BINARY, os.urandom(65000)), 0
        self.socket.setblocking(False)
        while time.monotonic() < deadline:
            if not select.select([], [self.socket], [], 0.7)[1]:
                return
            offset = (offset + self.socket.send(frame[offset:])) % len(frame)
        raise AssertionError(f"the server took all that was sent in {seconds} s, and none of its echoes was read")


def masked(opcode, payload, final=True):
    length = len(payload)
    assert length < 65536
    header = bytes([final << 7 | opcode, 0x80 | (length if length < 126 else 126)])
    key = os.urandom(4)
    if length >= 126:
        header += struct.pack("!H", length)
    stream = (key * (length // 4 + 1))[:length]
    body = int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")
    return header + key + body.to_bytes(length, "big")


def parse(data):
    """(opcode, payload, length of the frame) of the first frame of a server, or None while it is not all there."""
    if len(data) < 2:
        return None
    length, start = data[1] & 0x7F, 2
    if length == 126:
        length, start = int.from_bytes(data[2:4], "big"), 4
    elif length == 127:
        length, start = int.from_bytes(data[2:10], "big"), 10
    if len(data) < start or len(data) < start + length:
        return None
    assert data[1] & 0x80 == 0, "a server's frame is masked"
    return data[0] & 0x0F, data[start:start + length], start + length


class Background:
    """A thread whose failure is raised where it is joined."""

    def __init__(self, work):
        self.error = None

        def body():
            try:
                work()
            except BaseException as error:
                self.error = error

        self.thread = threading.Thread(target=body, daemon=True)
        self.thread.start()

    def join(self, seconds=20):
        self.thread.join(seconds)
        assert not self.thread.is_alive(), f"a peer was still waiting after {seconds} s"
        if self.error:
            raise self.error


CHECKS = [
    help_works,
    version_works,
    a_wrong_option_is_an_error_of_usage,
    a_bad_address_is_named,
    a_port_in_use_is_said_so,
    the_start_line_tells_what_runs,
    sigterm_drains,
    ctrl_c_drains,
    an_idle_server_stops_at_once,
    a_second_signal_ends_it_at_once,
    a_peer_that_never_reads_is_cut_when_the_time_is_over,
    a_header_of_1_mib_is_431_and_costs_no_memory,
    two_hundred_thousand_fragments_are_closed_and_hurt_no_other,
]


def main():
    global PROGRAM, DRIVER
    parser = argparse.ArgumentParser(description="The program from outside.")
    parser.add_argument("program")
    parser.add_argument("--driver", default="auto")
    parser.add_argument("--only", default="", help="checks with this in their names")
    options = parser.parse_args()
    PROGRAM, DRIVER = os.path.abspath(options.program), options.driver
    checks = [check for check in CHECKS if options.only in check.__name__]

    failed = 0
    for check in checks:
        started = time.monotonic()
        try:
            check()
            result = "ok"
        except Exception:
            traceback.print_exc(file=sys.stdout)
            result, failed = "FAILED", failed + 1
        print(f"{result:7} {check.__name__} ({time.monotonic() - started:.1f} s)", flush=True)
    print(f"binary, --driver {DRIVER}: {len(checks) - failed} checks ok, {failed} failed")
    return 1 if failed or not checks else 0


if __name__ == "__main__":
    sys.exit(main())
