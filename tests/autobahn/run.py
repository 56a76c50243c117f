#!/usr/bin/env python3
"""Runs the Autobahn TestSuite against our server or our client, and judges its report.

  run.py ws://HOST:PORT/PATH   against a server that is already listening, and echoes
  run.py --client PROGRAM      against a client, which is given the suite's URL and the agent's name

Each --cases is a process of the suite, and they run side by side, for the suite is what takes the time.

Exit 1 when a case is not OK, unless expected.txt lists it with that very behavior and a reason; 2 when the
suite did not run to its end. A case that fails outright cannot be excused by the list.
"""

import argparse
import collections
import concurrent.futures
import json
import pathlib
import shutil
import socket
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
AGENT = "switchpoint"

# Sections 12 and 13 are compression's, and take as long as each other. 517 is how many cases there are, so that a
# short run is noticed.
CASES = ["1.*,2.*,3.*,4.*,5.*,6.*,7.*,9.*,10.*,12.*", "13.*"]
CASES_COUNT = 517
# What --short leaves out: compressed messages of 32 KiB and more, as a whole and in fragments of all sizes. They take nine
# tenths of the time, and say about compression what the shorter ones say.
LONG = [f"{section}.*.{case}" for section in (12, 13) for case in (8, 9, 10, 14, 15, 16, 17, 18)]
LONG_COUNT = 96

# What the list may excuse; anything else is a failure even when it is listed.
EXCUSABLE = {"NON-STRICT", "INFORMATIONAL"}
CLOSE_FINE = {"OK", "INFORMATIONAL"}


class Unfinished(Exception):
    """The suite, or the client, did not come to its end."""


def main():
    options = arguments()
    started = time.monotonic()
    out = options.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    fuzz = fuzz_client if options.client else fuzz_server
    groups = options.cases or CASES
    report, unfinished = {}, []
    with concurrent.futures.ThreadPoolExecutor(len(groups)) as pool:
        runs = {out / f"part-{number}": cases for number, cases in enumerate(groups, 1)}
        for future in [pool.submit(fuzz, options, part, cases) for part, cases in runs.items()]:
            try:
                report.update(future.result())
            except Unfinished as problem:
                unfinished.append(problem)
    for problem in unfinished:
        print("FAILED:", problem)
    if unfinished:
        return 2

    print(f"{len(report)} cases in {time.monotonic() - started:.1f} s; the reports are {out}/part-*/index.html")
    print_sections(report)
    problems = judge(report, read_expected(options.expected))
    count = CASES_COUNT - (LONG_COUNT if options.short else 0)
    if not options.cases and len(report) != count:
        problems.append(f"{len(report)} cases ran, not {count}")
    if not report:
        problems.append("no case ran")
    for problem in problems:
        print("FAILED:", problem)
    print(f"autobahn: {len(report)} cases, {'FAILED' if problems else 'ok'}")
    return 1 if problems else 0


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("url", nargs="?", help="ws://HOST:PORT/PATH of a WebSocket echo")
    subject.add_argument("--client", type=pathlib.Path, help="a program that runs the cases of a fuzzing server")
    parser.add_argument("--wstest", default="wstest", help="the suite's program")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("target/tests/autobahn"), help="where the reports go")
    parser.add_argument("--cases", action="append", help="patterns with commas between; may be repeated (default: all)")
    parser.add_argument("--short", action="store_true", help="without long compressed messages")
    parser.add_argument("--expected", type=pathlib.Path, default=HERE / "expected.txt")
    parser.add_argument("--timeout", type=float, default=1000, help="seconds (default: %(default)s)")
    return parser.parse_args()


def fuzz_server(options, out, cases):
    """The suite's index: {case: {behavior, behaviorClose, ...}}."""
    servers = [{"agent": AGENT, "url": options.url, "options": {"version": 18}}]
    command = suite(options, "fuzzingclient", out, {"servers": servers}, cases)
    with (out / "wstest.log").open("w") as log:
        run("wstest", command, log, options.timeout)
    return read_index(out)


def fuzz_client(options, out, cases):
    """The same; here the suite listens, and the client runs through its cases."""
    url = f"ws://127.0.0.1:{free_port()}"
    command = suite(options, "fuzzingserver", out, {"url": url}, cases) + ["-u", "0"]
    client = [options.client.resolve(), url, AGENT]
    with (out / "wstest.log").open("w") as log, (out / "client.log").open("w") as client_log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=out)
        try:
            until_it_listens(server, int(url.rsplit(":", 1)[1]), out / "wstest.log")
            run("the client", client, client_log, options.timeout)
        finally:
            server.kill()
            server.wait()
    return read_index(out)


def suite(options, mode, out, subject, cases):
    """Writes the specification, and returns the command that runs it."""
    out.mkdir(parents=True)
    specification = out / "spec.json"
    specification.write_text(json.dumps({
        "options": {"failByDrop": False},
        "outdir": str(out),
        "cases": cases.split(","),
        "exclude-cases": LONG if options.short else [],
        "exclude-agent-cases": {},
        **subject,
    }))
    return [options.wstest, "-m", mode, "-s", str(specification)]


def run(name, command, log, seconds):
    try:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, cwd=pathlib.Path(log.name).parent, timeout=seconds).returncode
    except subprocess.TimeoutExpired:
        code = f"none: it was not done after {seconds:.0f} s"
    if code != 0:
        print(pathlib.Path(log.name).read_text(errors="replace")[-2000:])
        raise Unfinished(f"{name}'s exit code is {code}")


def read_index(out):
    index = out / "index.json"
    if not index.exists():
        raise Unfinished("the suite has left no report")
    return json.loads(index.read_text()).get(AGENT, {})


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until_it_listens(server, port, log):
    for _ in range(300):
        if server.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    print(log.read_text(errors="replace")[-2000:])
    raise Unfinished("wstest did not listen")


def print_sections(report):
    sections = collections.defaultdict(collections.Counter)
    seconds = collections.Counter()
    for case in sorted(report, key=order):
        section = case.split(".")[0]
        sections[section][report[case]["behavior"]] += 1
        seconds[section] += report[case]["duration"] / 1000
    for section, behaviors in sections.items():
        counts = ", ".join(f"{count} {behavior}" for behavior, count in behaviors.most_common())
        print(f"  section {section:>2}: {behaviors.total():3} cases {seconds[section]:7.1f} s  {counts}")


def judge(report, expected):
    """Prints every case that is not OK, and returns those that nothing excuses."""
    problems = []
    for case in sorted(report, key=order):
        behavior, closing = report[case]["behavior"], report[case]["behaviorClose"]
        if behavior == "OK" and closing == "OK":
            if case in expected:
                print(f"  {case:7} is OK, so its line in expected.txt can go")
            continue
        listed, why = expected.get(case, (None, "not in expected.txt"))
        excused = listed == behavior and behavior in EXCUSABLE and closing in CLOSE_FINE
        if not excused:
            problems.append(case)
        code = report[case].get("remoteCloseCode")
        print(f"  {case:7} {'as expected' if excused else 'FAILED'}: {behavior}, its close {closing} (code {code}): {why}")
    return [f"{len(problems)} cases: {' '.join(problems)}"] if problems else []


def read_expected(path):
    """{case: (behavior, why)}."""
    expected = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.split(maxsplit=2)
        if len(fields) != 3 or fields[1] not in EXCUSABLE:
            sys.exit(f"{path}:{number}: not 'CASE {'|'.join(sorted(EXCUSABLE))} WHY'")
        expected[fields[0]] = (fields[1], fields[2])
    return expected


def order(case):
    return [int(number) for number in case.split(".")]


if __name__ == "__main__":
    sys.exit(main())
