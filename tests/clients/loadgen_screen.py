#!/usr/bin/env python3
"""What loadgen shows while it runs, on a terminal of each kind and in a pipe.

    tests/clients/loadgen_screen.py PATH/loadgen ws://127.0.0.1:8080/echo
"""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time

PROGRAM, URL = sys.argv[1:3]
ALTERNATE, BACK = b"\x1b[?1049h", b"\x1b[?1049l"
COLOUR = re.compile(rb"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8])(?:;[0-9;]*)?m")


def on_a_terminal(flags, environment, keys=b"", after=1.5):
    """Runs it on a terminal of its own, with the standard output in a pipe: what both have got, and the exit code."""
    read, write = os.pipe()
    child, master = pty.fork()
    if child == 0:
        os.dup2(write, 1)
        os.environ.update(environment)
        os.execv(PROGRAM, [PROGRAM, "ws", URL, "-c", "2", "-r", "200", "--warmup", "0s", *flags])
    os.close(write)
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 110, 0, 0))
    os.set_blocking(master, False)
    shown, begun, code = b"", time.monotonic(), None
    while code is None and time.monotonic() - begun < 30:
        if keys and time.monotonic() - begun > after:
            os.write(master, keys)
            keys = b""
        try:
            shown += os.read(master, 65536)
        except BlockingIOError:
            time.sleep(0.02)
        except OSError:  # the other end is closed
            time.sleep(0.02)
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
    assert code is not None, "it does not end"
    try:
        while piece := os.read(master, 65536):
            shown += piece
    except OSError:
        pass
    printed = b""
    while piece := os.read(read, 65536):
        printed += piece
    os.close(read)
    os.close(master)
    return shown, printed, code


def check(name, holds, *seen):
    if not holds:
        sys.exit(f"FAILED: {name}\n" + "\n".join(repr(what) for what in seen))
    print(f"ok: {name}")


def main():
    colourful, plain = {"TERM": "xterm-256color"}, {"TERM": "xterm-256color", "NO_COLOR": "1"}
    for environment in (colourful, plain):
        os.environ.pop("NO_COLOR", None)
        shown, printed, code = on_a_terminal(["-d", "3s"], environment)
        name = "with NO_COLOR" if "NO_COLOR" in environment else "in colours"
        check(f"a screen, {name}", ALTERNATE in shown and b"lateness" in shown and b"answered/s" in shown, shown, code)
        check(f"the terminal is given back, {name}", shown.rstrip().rfind(BACK) > shown.rfind(ALTERNATE), shown)
        check(f"colours, {name}", bool(COLOUR.search(shown)) == ("NO_COLOR" not in environment), shown)
        check(f"the summary is printed, {name}", b"planned 600 messages" in printed and b"\x1b" not in printed, printed)
        check(f"its exit code, {name}", code in (0, 4), code, printed)

    shown, printed, code = on_a_terminal(["-d", "1h"], colourful, keys=b"q")
    check("q ends it with its summary", code == 130 and b"(interrupted)" in printed and BACK in shown, code, printed)
    shown, printed, code = on_a_terminal(["-d", "1h"], colourful, keys=b"\x03")
    check("so does Ctrl-C", code == 130 and b"(interrupted)" in printed and BACK in shown, code, printed)

    for flags, environment in (["--progress", "line"], colourful), ([], {"TERM": "dumb"}):
        shown, printed, code = on_a_terminal(["-d", "2s", *flags], environment)
        check(f"a line, {flags} {environment}", ALTERNATE not in shown and b"/2 s  run  " in shown and b"/s  p50 " in shown, shown)
    shown, printed, code = on_a_terminal(["-d", "1s", "--no-progress"], colourful)
    check("nothing if that is wanted", shown == b"", shown)


    output = subprocess.run([PROGRAM, "ws", URL, "-c", "2", "-r", "200", "-d", "2s"], capture_output=True, check=False)
    check("nothing in a pipe", output.stderr == b"" and b"\x1b" not in output.stdout, output)


main()
