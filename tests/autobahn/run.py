#!/usr/bin/env python3
"""Runs the Autobahn TestSuite's client against a server that is already listening, and judges its report.

Exit 1 when a case is not OK, unless expected.txt lists it with that very behavior and a reason; 2 when the
suite did not run to its end. A case that fails outright cannot be excused by the list.
"""

import argparse
import collections
import json
import pathlib
import shutil
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
AGENT = "switchpoint"

# Sections 12 and 13 are compression's. 301 is how many cases the rest has, so that a short run is noticed.
CASES = "1.*,2.*,3.*,4.*,5.*,6.*,7.*,9.*,10.*"
CASES_COUNT = 301

# What the list may excuse; anything else is a failure even when it is listed.
EXCUSABLE = {"NON-STRICT", "INFORMATIONAL"}
CLOSE_FINE = {"OK", "INFORMATIONAL"}


def main():
    options = arguments()
    started = time.monotonic()
    report = fuzz(options)
    print(f"{len(report)} cases in {time.monotonic() - started:.1f} s; the report is {options.out}/index.html")
    print_sections(report)

    problems = judge(report, read_expected(options.expected))
    if options.cases == CASES and len(report) != CASES_COUNT:
        problems.append(f"{len(report)} cases ran, not {CASES_COUNT}")
    if not report:
        problems.append("no case ran")
    for problem in problems:
        print("FAILED:", problem)
    print(f"autobahn: {len(report)} cases, {'FAILED' if problems else 'ok'}")
    return 1 if problems else 0


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="ws://HOST:PORT/PATH of a WebSocket echo")
    parser.add_argument("--wstest", default="wstest", help="the suite's program")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("target/tests/autobahn"), help="where the report goes")
    parser.add_argument("--cases", default=CASES, help="patterns with commas between (default: %(default)s)")
    parser.add_argument("--expected", type=pathlib.Path, default=HERE / "expected.txt")
    parser.add_argument("--timeout", type=float, default=1000, help="seconds (default: %(default)s)")
    return parser.parse_args()


def fuzz(options):
    """The suite's index: {case: {behavior, behaviorClose, ...}}."""
    out = options.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    specification = out / "spec.json"
    specification.write_text(json.dumps({
        "options": {"failByDrop": False},
        "outdir": str(out),
        "servers": [{"agent": AGENT, "url": options.url, "options": {"version": 18}}],
        "cases": options.cases.split(","),
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }))
    log = out / "wstest.log"
    command = [options.wstest, "-m", "fuzzingclient", "-s", str(specification)]
    with log.open("w") as output:
        try:
            code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, cwd=out, timeout=options.timeout).returncode
            ending = f"ended with exit code {code}"
        except subprocess.TimeoutExpired:
            code, ending = None, f"was not done after {options.timeout:.0f} s"
    index = out / "index.json"
    if code != 0 or not index.exists():
        print(log.read_text(errors="replace")[-2000:])
        print(f"FAILED: wstest {ending}" + ("" if index.exists() else " and left no report"))
        sys.exit(2)
    return json.loads(index.read_text()).get(AGENT, {})


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
