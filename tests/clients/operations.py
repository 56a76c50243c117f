#!/usr/bin/env python3
"""How the program is run: operations.py [--driver auto|uring|epoll] [--only NAME] [--soak SECONDS] PROGRAM

A new binary without loss, what systemd is told, a drain of 10,000 sessions, kernels that refuse io_uring, full disks,
clocks that jump, peers that are killed, and a soak. Python's standard library is all it needs; what needs a tool that is
not there is left out, and says so. As binary.py, whose peers it uses: each check is a function whose name is the fact
that it checks. Exit 1 if one fails.
"""

import argparse
import collections
import contextlib
import ctypes
import errno
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback

import binary
from binary import BINARY, CLOSE, TEXT, Background, Echo, Server, WebSocket, connected, masked, no_panic, parse

HERE = os.path.dirname(os.path.abspath(__file__))
SECCOMP_PROFILE = os.path.join(HERE, "..", "..", "packaging", "seccomp.json")


class Skipped(Exception):
    pass


# ---- a new binary -----------------------------------------------------------------------------------------

class Installed:
    """A copy of the program that can be replaced, running; it and its successors are ended at the end of its `with`."""

    def __init__(self, *flags, environment=None, **how):
        self.folder = tempfile.mkdtemp(prefix="switchpoint-")
        self.program = os.path.join(self.folder, "switchpoint")
        self.pid_file = os.path.join(self.folder, "pid")
        shutil.copy2(binary.PROGRAM, self.program)
        self.log_path = os.path.join(self.folder, "log")
        self.pids = []
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [self.program, "--listen", "127.0.0.1:0", "--driver", binary.DRIVER, "--pid-file", self.pid_file, *flags],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})}, **how)
        self.pids.append(self.process.pid)
        try:
            until(10, lambda: "listening on" in self.log() and os.path.exists(self.pid_file) or self.process.poll() is not None)
            assert self.process.poll() is None, f"it ended at its start with {self.process.returncode}\n{self.log()}"
            self.port = int(re.search(r"http://127\.0\.0\.1:(\d+)", self.log())[1])
        except BaseException:
            self.__exit__(None)
            raise

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is not None:
            print("        what the program wrote:\n" + self.log()[-3000:])
        if (pid := self.serving()) and pid not in self.pids:
            self.pids.append(pid)
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        until(5, lambda: not any(is_running(pid) for pid in self.pids))
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self):
        with open(self.log_path, errors="replace") as log:
            return log.read()

    def serving(self):
        """The process that serves, by its own word."""
        try:
            with open(self.pid_file) as file:
                return int(file.read())
        except (FileNotFoundError, ValueError):
            return None

    def becomes(self, script):
        """Another program in the place of this one."""
        beside = self.program + ".new"
        with open(beside, "w") as file:
            file.write("#!/bin/sh\n" + script)
        os.chmod(beside, 0o755)
        os.rename(beside, self.program)

    def upgrade(self):
        """Has it replaced; returns the new process."""
        old = self.serving()
        os.kill(old, signal.SIGUSR2)
        until(30, lambda: self.serving() not in (None, old), lambda: f"no other process came\n{self.log()}")
        self.pids.append(self.serving())
        return self.serving()


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def until(seconds, condition, why=lambda: "it did not happen"):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds} s: {why()}"
        time.sleep(0.02)


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def a_new_binary_takes_over_and_the_old_one_says_goodbye():
    with Installed("--drain-time", "5s") as server:
        old = server.serving()
        with WebSocket(server.port) as ws, Echo(server.port) as echo:
            ws.check()
            echo.check()
            new = server.upgrade()
            with Echo(server.port) as other:
                other.check()
            said = []
            goodbye = Background(lambda: said.append(ws.receive()))
            assert echo.socket.recv(100) == b"", "the echo got bytes, not its end"
            echo.socket.close()
            goodbye.join()
            assert said[0][0] == CLOSE and said[0][1][:2] == struct.pack("!H", 1001), f"{said}"
            ws.send(CLOSE, said[0][1][:2])
            assert ws.socket.recv(100) == b""
        assert server.process.wait(10) == 0
        assert re.search(r"[23] closed cleanly, 0 cut", server.log()), server.log()
        # The socket is still there, and a third process can have it.
        third = server.upgrade()
        until(10, lambda: not is_running(new), lambda: "the second process did not end")
        with WebSocket(server.port) as ws:
            ws.check()
            print(f"        {old} → {new} → {third} on port {server.port}")
        os.kill(third, signal.SIGTERM)
        until(10, lambda: not is_running(third), lambda: "the third process did not end")
        try:
            connected(server.port).close()
            raise AssertionError("somebody still listens")
        except ConnectionRefusedError:
            pass
        assert not os.path.exists(server.pid_file), "the file went with the last process"
        no_panic(server.log())


def a_binary_that_does_not_start_costs_nothing():
    with Installed() as server, WebSocket(server.port) as ws:
        command = [binary.PROGRAM, "upgrade-binary", "--pid-file", server.pid_file]
        failures = {
            "exit 3": "exit status: 3",
            "kill -9 $$": "signal: 9",
            # As with an option that the new version has no more.
            f'exec {binary.PROGRAM} "$@" --listen 192.0.2.1:1': "192.0.2.1:1",
        }
        for script, reason in failures.items():
            server.becomes(script)
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert done.returncode == 1 and reason in done.stderr, f"{script}: {done}"
            print(f"        {done.stderr.strip()}")
            assert server.serving() == server.process.pid
            ws.check()
            with Echo(server.port) as echo:
                echo.check()
        os.unlink(server.program)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and "No such file" in done.stderr, f"{done}"
        ws.check()

        # And when it is in order again, it takes over.
        shutil.copy2(binary.PROGRAM, server.program)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and "has taken over" in done.stdout, f"{done}\n{server.log()}"
        print(f"        {done.stdout.strip()}")
        server.pids.append(server.serving())
        assert server.serving() != server.process.pid
        no_panic(server.log())


def a_server_that_is_told_to_end_waits_for_no_other():
    with Installed() as server:
        server.becomes("exec sleep 60")
        os.kill(server.process.pid, signal.SIGUSR2)
        until(5, lambda: "a new process was started" in server.log())
        began = time.monotonic()
        os.kill(server.process.pid, signal.SIGTERM)
        assert server.process.wait(10) == 0, server.log()
        print(f"        it ended after {time.monotonic() - began:.1f} s")


def the_command_harms_nobody_who_is_no_server():
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            done = binary.run("upgrade-binary", "--pid", str(other.pid))
            assert done.returncode == 1 and "no Switchpoint" in done.stderr, f"{done}"
            assert other.poll() is None, "it was killed"
        finally:
            other.kill()
    done = binary.run("upgrade-binary")
    assert done.returncode == 2 and "--pid" in done.stderr, f"{done}"


def nothing_but_the_sockets_is_passed_on():
    with Installed("--threads", "2") as server:
        with Echo(server.port) as echo, WebSocket(server.port) as ws:
            echo.check()
            ws.check()
            before = descriptors(server.process.pid) - 2   # the two sessions
            new = server.upgrade()
            with Echo(server.port) as other:
                other.check()
        until(15, lambda: descriptors(new) <= before,
              lambda: f"{before} descriptors of the first idle process, {descriptors(new)} of the second")
        print(f"        {before} descriptors when idle, {descriptors(new)} in the new process")


HANDSHAKES_A_SECOND = 2000


def nobody_is_refused_while_the_binary_changes():
    for workers in (2, 3, 1):
        with Installed("--drain-time", "3s") as server:
            if workers != 2:
                # A successor with more workers than there are sockets, and one with fewer.
                shutil.copy2(binary.PROGRAM, server.program + ".real")
                server.becomes(f'exec {server.program}.real "$@" --threads {workers}')
            load = Handshakes(server.port, HANDSHAKES_A_SECOND, 6)
            running = Background(load.run)
            time.sleep(2)
            new = server.upgrade()
            time.sleep(2)
            if workers == 2:
                newer = server.upgrade()
                assert newer != new
            running.join(40)
            assert f"with {workers} worker" in server.log().split("takes over")[-2], server.log()
            print(f"        {workers} workers take over: {load}")
            assert not load.failures, f"{load}\n{server.log()[-2000:]}"
            assert load.answered == load.begun >= 6 * HANDSHAKES_A_SECOND * 0.95, f"{load}"
            no_panic(server.log())


class Handshakes:
    """So many connections a second, each of which asks for an upgrade and goes once it has its 101."""

    REQUEST = b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"

    def __init__(self, port, rate, seconds):
        self.port, self.rate, self.seconds = port, rate, seconds
        self.begun = self.answered = 0
        self.slowest = 0.0
        self.failures = collections.Counter()

    def __str__(self):
        return (f"{self.begun} handshakes at {self.rate}/s, {self.answered} answered with 101, "
                f"slowest {self.slowest * 1000:.0f} ms, failures: {dict(self.failures) or 'none'}")

    def run(self):
        poll, peers = select.epoll(), {}
        total, start = int(self.rate * self.seconds), time.monotonic()
        try:
            while self.begun < total or peers:
                now = time.monotonic()
                if now > start + self.seconds + 15:
                    self.failures["no answer"] += len(peers)
                    return
                due = min(total, int((now - start) * self.rate) + 1)
                for _ in range(min(due - self.begun, 64)):
                    self.begun += 1
                    peer = socket.socket()
                    peer.setblocking(False)
                    # Each address has ports of its own, and closed connections keep theirs for a minute.
                    peer.bind((f"127.0.0.{2 + self.begun % 8}", 0))
                    peers[peer.fileno()] = [peer, b"", now]
                    if peer.connect_ex(("127.0.0.1", self.port)) not in (0, errno.EINPROGRESS):
                        self.end(peers, peer.fileno(), "connect")
                        continue
                    poll.register(peer.fileno(), select.EPOLLOUT | select.EPOLLIN)
                for number, _ in poll.poll(0.0005, 256):
                    if number in peers:
                        self.go_on(poll, peers, number)
        finally:
            for peer, _, _ in peers.values():
                peer.close()
            poll.close()

    def go_on(self, poll, peers, number):
        peer, head, begun = peers[number]
        try:
            if head == b"":
                peer.send(self.REQUEST)
                peers[number][1] = b"?"
                poll.modify(number, select.EPOLLIN)
                return
            data = peer.recv(4096)
        except BlockingIOError:
            return
        except OSError as error:
            return self.end(peers, number, errno.errorcode.get(error.errno, str(error)))
        if not data:
            return self.end(peers, number, "end before the answer")
        head = peers[number][1] = head + data
        if b"\r\n\r\n" in head:
            self.slowest = max(self.slowest, time.monotonic() - begun)
            self.end(peers, number, None if head.startswith(b"?HTTP/1.1 101 ") else head[1:13].decode(errors="replace"))

    def end(self, peers, number, failure):
        if failure:
            self.failures[failure] += 1
        else:
            self.answered += 1
        peers.pop(number)[0].close()


def a_connection_that_asks_late_is_served_by_whom_it_reached():
    with Installed("--drain-time", "5s") as server:
        with connected(server.port) as silent, connected(server.port) as kept:
            kept.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            first = response(kept)
            assert first.startswith(b"HTTP/1.1 200 ") and b"Connection: close" not in first, f"{first!r}"
            time.sleep(0.2)   # both are accepted
            server.upgrade()
            time.sleep(0.5)   # the old process has stopped
            kept.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            last = response(kept)
            assert last.startswith(b"HTTP/1.1 200 ") and b"Connection: close" in last, f"{last!r}"
            silent.sendall(Handshakes.REQUEST)
            answer = response(silent)
            assert answer.startswith(b"HTTP/1.1 101 "), f"{answer!r}"
            silent.sendall(b"hello")
            assert silent.recv(5) == b"hello"


def response(peer):
    data = b""
    while b"\r\n\r\n" not in data:
        more = peer.recv(4096)
        assert more, f"it ended after {data!r}"
        data += more
    return data


# ---- systemd ----------------------------------------------------------------------------------------------

class Manager:
    """The service manager's end of sd_notify(3)."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(b"\0switchpoint-test-%d-%d" % (os.getpid(), random.randrange(1 << 30)))
        self.environment = {"NOTIFY_SOCKET": "@" + self.socket.getsockname()[1:].decode()}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def next(self, seconds):
        """What it is told next; None if nothing is."""
        self.socket.settimeout(seconds)
        try:
            message = self.socket.recv(4096).decode()
        except (TimeoutError, BlockingIOError):
            return None
        return dict(line.split("=", 1) for line in message.splitlines())

    def waits_for(self, field, seconds=10):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            told = self.next(max(0.01, deadline - time.monotonic()))
            if told and field in told:
                return told
        raise AssertionError(f"{field} was not told within {seconds} s")


def the_service_manager_hears_of_it_all():
    with Manager() as manager, Installed("--drain-time", "2s", environment=manager.environment) as server:
        told = manager.waits_for("READY")
        assert f"127.0.0.1:{server.port}" in told["STATUS"], f"{told}"

        works = server.program + ".works"
        shutil.copy2(server.program, works)
        server.becomes("exit 3")
        os.kill(server.process.pid, signal.SIGUSR2)
        assert int(manager.waits_for("RELOADING")["MONOTONIC_USEC"]) > 0
        told = manager.waits_for("READY")
        assert "exit status: 3" in told["STATUS"] and "MAINPID" not in told, f"{told}"

        os.rename(works, server.program)
        old, new = server.serving(), server.upgrade()
        manager.waits_for("RELOADING")
        told = manager.waits_for("MAINPID")
        assert told["MAINPID"] == str(new) and told["READY"] == "1", f"{told}"
        until(10, lambda: not is_running(old))
        while told := manager.next(0.3):
            assert "STOPPING" not in told, "the service does not stop"

        os.kill(new, signal.SIGTERM)
        assert "Draining" in manager.waits_for("STOPPING")["STATUS"]


def the_watchdog_hears_as_long_as_every_worker_ticks():
    with Manager() as manager:
        environment = {**manager.environment, "WATCHDOG_USEC": "900000"}
        with Installed("--threads", "2", environment=environment) as server:
            began = time.monotonic()
            for _ in range(4):
                manager.waits_for("WATCHDOG", 2)
            assert time.monotonic() - began < 2.5, "it should come three times in 0.9 s"
            new = server.upgrade()
            manager.waits_for("MAINPID")
            until(10, lambda: not is_running(server.process.pid))
            while manager.next(0):
                pass
            manager.waits_for("WATCHDOG", 2)
            try:
                worker = thread_of(new, "switchpoint-1")
                with halted(worker):
                    time.sleep(1)
                    while manager.next(0):
                        pass
                    told = manager.next(2)
                    assert told is None, f"a worker was stuck, and it said {told}"
                manager.waits_for("WATCHDOG", 2)
            except PermissionError as error:
                raise Skipped(f"one thread cannot be halted here: {error}") from None
            assert "has not ticked" in server.log(), server.log()


def thread_of(pid, name):
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/comm") as comm:
            if comm.read().strip() == name:
                return int(thread)
    raise AssertionError(f"there is no thread {name}")


@contextlib.contextmanager
def halted(thread):
    """A thread of another process stands still, and the others do not (ptrace(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    seize, interrupt, detach = 0x4206, 0x4207, 17

    def ptrace(request):
        if libc.ptrace(request, thread, None, None) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    ptrace(seize)
    ptrace(interrupt)
    os.waitpid(thread, 0x40000000)   # __WALL
    try:
        yield
    finally:
        ptrace(detach)


def sockets_of_socket_activation_survive_a_new_binary():
    tool = shutil.which("systemd-socket-activate")
    if not tool:
        raise Skipped("systemd-socket-activate is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        pid_file, log_path = os.path.join(folder, "pid"), os.path.join(folder, "log")
        with open(log_path, "wb") as log:
            process = subprocess.Popen(
                [tool, "-l", f"127.0.0.1:{port}", "--fdname=web", binary.PROGRAM, "--listen", "fd://web",
                 "--driver", binary.DRIVER, "--pid-file", pid_file, "--drain-time", "2s"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        pids = [process.pid]
        try:
            until(10, lambda: listens(port))
            with Echo(port) as echo:   # the first one starts it
                echo.check()
                until(10, lambda: os.path.exists(pid_file))
                done = subprocess.run([binary.PROGRAM, "upgrade-binary", "--pid-file", pid_file], capture_output=True, text=True, timeout=60)
                with open(log_path) as log:
                    assert done.returncode == 0, f"{done}\n{log.read()}"
                with open(pid_file) as file:
                    pids.append(int(file.read()))
            with WebSocket(port) as ws:
                ws.check()
            until(10, lambda: not is_running(pids[0]) or process.poll() is not None)
            with Echo(port) as echo:
                echo.check()
            print(f"        {done.stdout.strip()}")
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def listens(port):
    with open("/proc/net/tcp") as table:
        return any(f":{port:04X} 00000000:0000 0A" in line for line in table)


# ---- kernels that refuse io_uring -------------------------------------------------------------------------

def without_uring():
    """In the child: io_uring_setup(2) fails with EPERM, as under Docker's default profile."""
    load, jump, give = 0x20, 0x15, 0x06   # BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JEQ | BPF_K, BPF_RET | BPF_K
    allow, refuse = 0x7FFF0000, 0x00050000 | errno.EPERM
    program = [(load, 0, 0, 0), (jump, 0, 1, 425), (give, 0, 0, refuse), (give, 0, 0, allow)]
    filters = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(filters)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) != 0 or libc.prctl(22, 2, header, 0, 0) != 0:   # NO_NEW_PRIVS, SECCOMP_MODE_FILTER
        os._exit(99)


def epoll_serves_where_the_kernel_refuses_io_uring():
    for driver, works in (("auto", True), ("uring", False)):
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen([binary.PROGRAM, "--listen", "127.0.0.1:0", "--driver", driver], stdout=log,
                                       stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, preexec_fn=without_uring)
            output = lambda: os.pread(log.fileno(), 1 << 16, 0).decode()
            try:
                if not works:
                    assert process.wait(10) == 1 and "io_uring is not available" in output(), output()
                    print(f"        {output().strip()}")
                    continue
                until(10, lambda: "listening on" in output(), output)
                assert re.search(r"workers? on epoll", output()), output()
                print(f"        {output().splitlines()[0]}")
                port = int(re.search(r"http://127\.0\.0\.1:(\d+)", output())[1])
                with Echo(port) as echo, WebSocket(port) as ws:
                    echo.check()
                    ws.check()
                process.send_signal(signal.SIGTERM)
                assert process.wait(15) == 0, output()
            finally:
                process.kill()
                process.wait()


def epoll_serves_where_no_memory_may_be_locked():
    """A ring is charged to RLIMIT_MEMLOCK, but not root's."""
    if os.geteuid() != 0:
        raise Skipped("only root can become somebody whose rings are charged")
    import resource

    def poor():
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
        os.setgid(65534)
        os.setuid(65534)

    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        program = shutil.copy2(binary.PROGRAM, folder)
        process = subprocess.Popen([program, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True,
                                   stdin=subprocess.DEVNULL, preexec_fn=poor)
        try:
            line = process.stdout.readline().strip()
            print(f"        {line}")
            assert re.search(r"workers? on epoll", line), line
            with Echo(int(re.search(r"http://127\.0\.0\.1:(\d+)", line)[1])) as echo:
                echo.check()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def the_profile_for_containers_lets_it_run():
    """As a container would run it: what the profile does not name is refused."""
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        raise Skipped(f"libseccomp is not installed: {error}") from None
    with open(SECCOMP_PROFILE) as file:
        profile = json.load(file)
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    names = [name for rule in profile["syscalls"] for name in rule["names"]]
    assert all(rule["action"] == "SCMP_ACT_ALLOW" for rule in profile["syscalls"])

    library.seccomp_init.restype = ctypes.c_void_p
    allow, refuse = 0x7FFF0000, 0x00050000 | profile["defaultErrnoRet"]
    rules = ctypes.c_void_p(library.seccomp_init(refuse))
    numbers = [library.seccomp_syscall_resolve_name(name.encode()) for name in names]
    for number in numbers:
        if number >= 0:   # another machine's, or newer than the library
            assert library.seccomp_rule_add(rules, allow, number, 0) == 0
    known = dict(zip(names, numbers))
    assert known["io_uring_setup"] >= 0, "this library does not know io_uring"

    def confined():
        if library.seccomp_load(rules) != 0:
            os._exit(99)

    with Installed("--drain-time", "2s", preexec_fn=confined) as server:
        line = server.log().splitlines()[0]
        assert binary.DRIVER == "epoll" or "io_uring" in line, line
        with WebSocket(server.port) as ws, Echo(server.port) as echo:
            ws.check()
            echo.check()
        server.upgrade()
        with Echo(server.port) as echo:
            echo.check()
        print(f"        {line}")


# ---- a crowd ----------------------------------------------------------------------------------------------

class Http2:
    """As much of HTTP/2 as it takes to hold sessions on streams: by prior knowledge, or after `Upgrade: h2c`."""

    DATA, HEADERS, SETTINGS, PING, GOAWAY = 0, 1, 4, 6, 7

    def __init__(self, port, upgrade=False):
        self.socket = connected(port)
        self.input, self.open, self.said_goodbye, self.clean, self.pending = b"", set(), False, 0, 0
        if upgrade:
            self.socket.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\n"
                                b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n")
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += self.socket.recv(1)
            assert head.startswith(b"HTTP/1.1 101 "), f"{head!r}"
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + self.frame(self.SETTINGS, 0, 0, b""))

    @staticmethod
    def frame(kind, flags, stream, payload):
        return struct.pack("!IBBI", len(payload), kind, flags, stream)[1:] + payload

    def open_sessions(self, count):
        def literal(start, *strings):
            return start + b"".join(bytes([len(string)]) + string for string in strings)

        head = (literal(b"\x02", b"CONNECT") + literal(b"\x00", b":protocol", b"websocket") + b"\x86" + literal(b"\x04", b"/echo")
                + literal(b"\x01", b"localhost") + literal(b"\x00", b"sec-websocket-version", b"13"))
        for stream in range(1, 2 * count, 2):
            self.socket.sendall(self.frame(self.HEADERS, 4, stream, head))
        self.pending = count
        while self.pending:
            data = self.socket.recv(65536)
            assert data, "it ended while its streams were opened"
            self.take(data)

    def take(self, data):
        """What has arrived. Whoever is told goodbye answers."""
        self.input += data
        while len(self.input) >= 9 and len(self.input) >= 9 + (length := int.from_bytes(self.input[:3], "big")):
            kind, flags, stream = struct.unpack("!BBI", self.input[3:9])
            payload, self.input = self.input[9:9 + length], self.input[9 + length:]
            if kind == self.SETTINGS and not flags & 1:
                self.socket.sendall(self.frame(self.SETTINGS, 1, 0, b""))
            elif kind == self.PING and not flags & 1:
                self.socket.sendall(self.frame(self.PING, 1, 0, payload))
            elif kind == self.GOAWAY:
                assert payload[4:8] == bytes(4), f"GOAWAY with error {payload[4:]!r}"
                self.said_goodbye = True
            elif kind == self.HEADERS and self.pending:
                assert payload[:1] == b"\x88", f"stream {stream} was answered with {payload!r}"   # :status 200
                self.open.add(stream)
                self.pending -= 1
            elif kind == self.DATA and stream in self.open:
                if payload:
                    assert payload[0] == 0x88 and payload[2:4] == struct.pack("!H", 1001), f"stream {stream}: {payload!r}"
                    self.socket.sendall(self.frame(self.DATA, 1, stream, masked(CLOSE, payload[2:4])))
                if flags & 1:
                    self.open.remove(stream)
                    self.clean += 1


CROWD = {"websocket": 4000, "echo": 3000, "h2c": 500, "streams": 2500}
STREAMS_EACH = 100


def ten_thousand_sessions_of_all_kinds_are_told_goodbye():
    binary_limit()
    sessions = sum(CROWD.values())
    with Server("--drain-time", "15s", "--h2c", "--log", "warn") as server:
        peers, clean, began = {}, collections.Counter(), time.monotonic()
        for kind, count in CROWD.items():
            for _ in range(count // STREAMS_EACH if kind == "streams" else count):
                if kind == "websocket":
                    peer = QuickUpgraded(server.port, WEBSOCKET_REQUEST)
                elif kind == "echo":
                    peer = QuickUpgraded(server.port, Handshakes.REQUEST)
                else:
                    peer = Http2(server.port, upgrade=kind == "h2c")
                    if kind == "streams":
                        peer.open_sessions(STREAMS_EACH)
                peers[peer.socket.fileno()] = (kind, peer)
        opened = time.monotonic() - began
        poll = select.epoll()
        for number, (_, peer) in peers.items():
            peer.socket.setblocking(False)
            poll.register(number, select.EPOLLIN)
        time.sleep(0.2)
        rss, numbers = server.rss(), descriptors(server.process.pid)
        server.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        while peers and time.monotonic() < began + 40:
            for number, _ in poll.poll(0.5, 1024):
                kind, peer = peers[number]
                data = peer.socket.recv(65536)
                if kind in ("h2c", "streams"):
                    if data:
                        peer.take(data)
                        continue
                    assert peer.said_goodbye and not peer.open, f"{kind} ended with {len(peer.open)} open streams"
                    clean[kind] += peer.clean if kind == "streams" else 1
                elif kind == "websocket" and data:
                    opcode, payload, _ = parse(data)
                    assert (opcode, payload[:2]) == (CLOSE, struct.pack("!H", 1001)), f"{opcode}, {payload!r}"
                    peer.socket.sendall(masked(CLOSE, payload[:2]))
                    peer.told = True
                    continue
                else:
                    assert data == b"" and (kind == "echo" or peer.told), f"{kind}: {data!r}"
                    clean[kind] += 1
                peer.socket.close()
                del peers[number]
        code = server.wait(10)
        cleanly, cut = server.last_counts()
        print(f"        {sessions} sessions opened in {opened:.1f} s, {numbers} descriptors, RSS {rss >> 20} MiB; "
              f"told goodbye: {dict(clean)}\n        {server.last_line()}")
        assert code == 0 and clean == CROWD, f"{clean} of {CROWD}"
        # A connection that carries streams is a session, too.
        assert cut == 0 and cleanly == sessions + CROWD["streams"] // STREAMS_EACH, server.last_line()


def binary_limit():
    import resource
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    needed = CROWD["websocket"] + CROWD["echo"] + CROWD["h2c"] + CROWD["streams"] // STREAMS_EACH + 300
    if hard < needed:
        raise Skipped(f"only {hard} descriptors are allowed here; it takes {needed}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


WEBSOCKET_REQUEST = (b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                     b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")


class QuickUpgraded:
    """A session of which there are many: its answer is looked at, and no more."""

    def __init__(self, port, request):
        self.socket, self.told = connected(port), False
        self.socket.sendall(request)
        head = self.socket.recv(4096)
        assert head.startswith(b"HTTP/1.1 101 ") and head.endswith(b"\r\n\r\n"), f"{head!r}"


# ---- what goes wrong around it ----------------------------------------------------------------------------

def peers_that_are_killed_leave_nothing():
    script = ("import sys; sys.path.insert(0, sys.argv[1]); import binary, os, time\n"
              "port, peers = int(sys.argv[2]), []\n"
              "for _ in range(150):\n"
              "    peers += [binary.WebSocket(port), binary.Echo(port), binary.connected(port)]\n"
              "    peers[-1].sendall(b'GET / HTTP/1.1\\r\\nHost: ')\n"
              "print('ready', flush=True)\n"
              "while True:\n"
              "    for peer in peers[::3]: peer.send(binary.BINARY, os.urandom(5000))\n"
              "    for peer in peers[1::3]: peer.socket.sendall(os.urandom(5000))\n"
              "    time.sleep(0.01)\n")
    with Server("--head-time", "5s") as server, WebSocket(server.port) as ws:
        ws.check()
        before = None   # of the first round, which also opens what each core has once
        for _ in range(4):
            peer = subprocess.Popen([sys.executable, "-c", script, HERE, str(server.port)], stdout=subprocess.PIPE)
            assert peer.stdout.readline() == b"ready\n"
            assert descriptors(server.process.pid) >= 450
            time.sleep(0.2)
            peer.kill()
            peer.wait()
            peer.stdout.close()
            if before is None:
                settle(server)
                before = descriptors(server.process.pid)
                assert before < 40, f"{before} descriptors are open"
            until(10, lambda: descriptors(server.process.pid) <= before,
                  lambda: f"{before} descriptors before, {descriptors(server.process.pid)} after")
            ws.check()
        print(f"        4 × 450 peers killed with kill -9; {before} descriptors before and after")


def a_full_disk_for_logs_stops_nobody():
    refused = b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: nonsense\r\n\r\n"
    with contextlib.ExitStack() as stack:
        logs = [("/dev/full", open("/dev/full", "wb"))]
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        if os.geteuid() == 0 and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "none", folder],
                                                capture_output=True).returncode == 0:
            stack.callback(subprocess.run, ["umount", "-l", folder], check=True)
            logs.append(("a tmpfs of 32 KiB", open(os.path.join(folder, "log"), "wb")))
        for name, log in logs:
            with log, socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
                free.close()
                process = subprocess.Popen([binary.PROGRAM, "--listen", f"127.0.0.1:{port}", "--log", "debug", "--driver", binary.DRIVER],
                                           stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                try:
                    until(10, lambda: listens(port) or process.poll() is not None)
                    time.sleep(0.2)
                    with WebSocket(port) as ws:
                        for _ in range(300):
                            with connected(port) as peer:
                                peer.sendall(refused)
                                assert peer.recv(4096).startswith(b"HTTP/1.1 426 ")
                            with Echo(port) as echo:
                                echo.check()
                        ws.check()
                    assert process.poll() is None, f"{name}: it ended with {process.returncode}"
                    process.send_signal(signal.SIGTERM)
                    assert process.wait(15) == 0, f"{name}: exit code {process.returncode}"
                    print(f"        {name}: 300 refusals and 300 sessions logged to it, and served")
                finally:
                    process.kill()
                    process.wait()


def clocks_that_jump_end_nobody():
    found = [path for path in ("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1", "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1")
             if os.path.exists(path)]
    if not found:
        raise Skipped("libfaketime is not installed")
    with tempfile.TemporaryDirectory() as folder:
        offset = os.path.join(folder, "offset")

        def step(text):
            with open(offset + ".new", "w") as file:
                file.write(text + "\n")
            os.rename(offset + ".new", offset)

        step("+0")
        environment = {"LD_PRELOAD": found[0], "FAKETIME_TIMESTAMP_FILE": offset, "FAKETIME_NO_CACHE": "1",
                       "DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        with Installed("--head-time", "2s", "--idle-time", "20s", "--ping-after", "20s", "--drain-time", "5s",
                       environment=environment) as server, WebSocket(server.port) as ws, Echo(server.port) as echo:
            days = []
            for text in ("+0", "+400d", "-400d", "+1d"):
                step(text)
                time.sleep(1.2)   # the Date of an answer is made once a second
                with connected(server.port) as peer:
                    peer.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    days.append(re.search(rb"Date: (.*?)\r\n", response(peer))[1].decode())
                ws.check()
                echo.check()
            years = {day.split()[3] for day in days}
            assert len(years) > 1, f"the clock did not jump for the server: {days}"
            # A deadline lasts as long as it says, while the clock jumps.
            with connected(server.port) as peer:
                peer.sendall(b"GET / HTTP/1.1\r\n")
                began = time.monotonic()
                step("+900d")
                time.sleep(0.5)
                step("-900d")
                assert peer.recv(4096).startswith(b"HTTP/1.1 408 ")
                took = time.monotonic() - began
                assert 1.8 < took < 3.5, f"the head's 2 s took {took:.1f} s"
            print(f"        {', '.join(days)}; a deadline of 2 s took {took:.1f} s")
            ws.check()
            os.kill(server.process.pid, signal.SIGTERM)
            opcode, payload = ws.receive()
            assert (opcode, payload[:2]) == (CLOSE, struct.pack("!H", 1001))


# ---- a soak -----------------------------------------------------------------------------------------------

SOAK_SECONDS = 25


def churn_leaves_nothing_behind():
    soak(SOAK_SECONDS)


def soak(seconds):
    """Sessions come and go, in every way that they can; what the server holds afterwards is what it held before."""
    with Server("--h2c", "--log", "error", "--head-time", "2s") as server:
        pid, done, failures = server.process.pid, collections.Counter(), []
        with WebSocket(server.port) as witness:
            for kind in SOAKS * 3:
                kind(server.port, done)   # what is made once is there now
            settle(server)
            empty, samples, start = descriptors(pid), [], time.monotonic()
            next_sample = start
            while (now := time.monotonic()) < start + seconds:
                if now >= next_sample:
                    samples.append((now - start, server.rss(), descriptors(pid)))
                    next_sample += seconds / 20
                    witness.check()
                kind = random.choice(SOAKS)
                try:
                    kind(server.port, done)
                except OSError as error:
                    failures.append(f"{kind.__name__}: {error}")
                    assert len(failures) < 10, f"{failures}"
            settle(server)
            witness.check()
            left, rss = descriptors(pid), server.rss()
            # What the first fifth has grown by is warming up: pools, and the allocator's own.
            warm = max(sample[1] for sample in samples[:max(1, len(samples) // 5)])
            rate = sum(done.values()) / seconds
            print(f"        {seconds} s, {sum(done.values())} connections ({rate:.0f}/s): {dict(done)}\n"
                  f"        descriptors {empty} before, at most {max(s[2] for s in samples)}, {left} after; "
                  f"RSS {warm >> 10} KiB after a fifth of it, {max(s[1] for s in samples) >> 10} KiB at most, {rss >> 10} KiB at the end")
            assert not failures, f"{failures}"
            assert left <= empty, f"{left - empty} descriptors were not closed"
            assert rss <= warm + SOAK_GROWTH_MAX, f"grown by {(rss - warm) >> 10} KiB"
            return samples, done


SOAK_GROWTH_MAX = 4 << 20


def settle(server):
    until(10, lambda: descriptors_settle(server), lambda: "sessions are left")


def descriptors_settle(server):
    before = descriptors(server.process.pid)
    time.sleep(0.6)
    return descriptors(server.process.pid) == before


def soak_websocket(port, done):
    with WebSocket(port) as ws:
        for size in (10, 2000, 40_000):
            payload = os.urandom(size)
            ws.send(BINARY, payload)
            assert received(ws) == (BINARY, payload), "the echo changed"
        ws.send(CLOSE, struct.pack("!H", 1000))
        assert ws.receive()[0] == CLOSE
    done["websocket"] += 1


def received(ws):
    """As `WebSocket.receive`, but not a byte at a time; nothing is behind the message."""
    data = b""
    while not (found := parse(data)):
        more = ws.socket.recv(65536)
        assert more, "it ended in a message"
        data += more
    assert found[2] == len(data)
    return found[:2]


def soak_vanishing_websocket(port, done):
    with WebSocket(port) as ws:
        ws.send(TEXT, b"x" * random.randrange(1, 5000))
        reset(ws.socket)
    done["reset"] += 1


def soak_echo(port, done):
    with Echo(port) as echo:
        for _ in range(3):
            echo.check()
    done["echo"] += 1


def soak_refused(port, done):
    with connected(port) as peer:
        peer.sendall(random.choice([b"nonsense\r\n\r\n", b"GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
                                    b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"]))
        assert peer.recv(4096).startswith(b"HTTP/1.1 4")
    done["refused"] += 1


def soak_half_a_head(port, done):
    with connected(port) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHo")
        if random.random() < 0.5:
            reset(peer)
    done["half a head"] += 1


def soak_http2(port, done):
    http2 = Http2(port, upgrade=random.random() < 0.5)
    with http2.socket:
        if random.random() < 0.5:
            reset(http2.socket)
    done["http2"] += 1


def soak_streams(port, done):
    http2 = Http2(port)
    with http2.socket:
        http2.open_sessions(10)
        if random.random() < 0.5:
            reset(http2.socket)
    done["streams"] += 10


SOAKS = [soak_websocket, soak_websocket, soak_vanishing_websocket, soak_echo, soak_echo, soak_refused, soak_half_a_head,
         soak_http2, soak_streams]


def reset(peer):
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


CHECKS = [
    a_new_binary_takes_over_and_the_old_one_says_goodbye,
    a_binary_that_does_not_start_costs_nothing,
    a_server_that_is_told_to_end_waits_for_no_other,
    the_command_harms_nobody_who_is_no_server,
    nothing_but_the_sockets_is_passed_on,
    a_connection_that_asks_late_is_served_by_whom_it_reached,
    nobody_is_refused_while_the_binary_changes,
    the_service_manager_hears_of_it_all,
    the_watchdog_hears_as_long_as_every_worker_ticks,
    sockets_of_socket_activation_survive_a_new_binary,
    epoll_serves_where_the_kernel_refuses_io_uring,
    epoll_serves_where_no_memory_may_be_locked,
    the_profile_for_containers_lets_it_run,
    ten_thousand_sessions_of_all_kinds_are_told_goodbye,
    peers_that_are_killed_leave_nothing,
    a_full_disk_for_logs_stops_nobody,
    clocks_that_jump_end_nobody,
    churn_leaves_nothing_behind,
]


def main():
    parser = argparse.ArgumentParser(description="How the program is run.")
    parser.add_argument("program")
    parser.add_argument("--driver", default="auto")
    parser.add_argument("--only", default="", help="checks with this in their names")
    parser.add_argument("--soak", type=int, metavar="SECONDS", help="nothing but a soak of so long")
    options = parser.parse_args()
    binary.PROGRAM, binary.DRIVER = os.path.abspath(options.program), options.driver
    if options.soak:
        samples, _ = soak(options.soak)
        for at, rss, count in samples:
            print(f"        {at:6.0f} s  RSS {rss >> 10:7} KiB  {count:4} descriptors")
        return 0
    checks = [check for check in CHECKS if options.only in check.__name__]

    failed = skipped = 0
    for check in checks:
        started = time.monotonic()
        try:
            check()
            result = "ok"
        except Skipped as why:
            print(f"        {why}")
            result, skipped = "skipped", skipped + 1
        except Exception:
            traceback.print_exc(file=sys.stdout)
            result, failed = "FAILED", failed + 1
        print(f"{result:7} {check.__name__} ({time.monotonic() - started:.1f} s)", flush=True)
    print(f"operations, --driver {binary.DRIVER}: {len(checks) - failed - skipped} checks ok, {failed} failed, {skipped} skipped")
    return 1 if failed or not checks else 0


if __name__ == "__main__":
    sys.exit(main())
