#!/usr/bin/env python3
"""The log of a run (--hlog), read by Python's HdrHistogram, beside the run's result (--json).

    tests/clients/hdr_log.py RESULT.json LOG.hlog
"""

import json
import sys

from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        result = json.load(file)
    reader = HistogramLogReader(sys.argv[2], HdrHistogram(1, 3_600_000_000_000, 3))
    by_tag = {}
    while (histogram := reader.get_next_interval_histogram()) is not None:
        by_tag.setdefault(histogram.get_tag(), []).append(histogram)
    for tag, name in [("run/response", "response_ns"), ("run/service", "service_ns"), ("run/send-lag", "send_lag_ns")]:
        (histogram,) = by_tag[tag]
        expected = result[name]
        assert histogram.get_total_count() == expected["count"], (tag, histogram.get_total_count(), expected)
        for percentile in ("p50", "p90", "p99", "p99.9"):
            if expected[percentile] is not None:
                # Libraries round a rank up or to the nearest one, so its neighbours count as well.
                at, one = float(percentile[1:]), 150 / expected["count"]
                low, high = (histogram.get_value_at_percentile(min(at + by, 100)) for by in (-one, one))
                is_same = low * 0.998 <= expected[percentile] <= high * 1.002
                assert is_same, (tag, percentile, low, high, expected)
    seconds = sum(histogram.get_total_count() for histogram in by_tag["latency"])
    print(f"{len(by_tag)} tags, {seconds} latencies in {len(by_tag['latency'])} seconds: read, and the same")


main()
