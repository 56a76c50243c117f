"""The metrics as Python's prometheus_client reads them, in both formats.

    metrics.py HOST:PORT METRICS_HOST:METRICS_PORT
"""

import socket
import sys
import time
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

REQUEST = (
    "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: {token}\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def address(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


def ask(server, path, token):
    client = socket.create_connection(server, timeout=10)
    client.sendall(REQUEST.format(path=path, token=token).encode())
    head = b""
    while b"\r\n\r\n" not in head:
        head += client.recv(1)
    return client, int(head.split()[1])


def scrape(metrics, accept):
    request = urllib.request.Request(f"http://{metrics}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def value(families, name, **labels):
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def main():
    server, metrics = address(sys.argv[1]), sys.argv[2]
    before = list(prometheus(scrape(metrics, "*/*")[1]))
    client, status = ask(server, "/echo", "websocket")
    assert status == 101, status
    for size in (5, 100):
        client.sendall(bytes([0x82, 0x80 | size, 0, 0, 0, 0]) + bytes(size))
        echoed = b""
        while len(echoed) < size + 2:
            echoed += client.recv(size + 2 - len(echoed))
    _, status = ask(server, "/echo", "made-up")
    assert status == 426, status
    time.sleep(0.2)  # what is published is up to a tick old

    kind, text = scrape(metrics, "text/plain")
    assert kind.startswith("text/plain; version=0.0.4"), kind
    after = list(prometheus(text))
    kind, text = scrape(metrics, "application/openmetrics-text; version=1.0.0, text/plain;q=0.5")
    assert kind.startswith("application/openmetrics-text; version=1.0.0"), kind
    families = list(openmetrics(text))  # which also checks that buckets grow, and end in +Inf

    for name, labels, more in [
        ("switchpoint_handshakes_total", {"protocol": "websocket", "outcome": "switched"}, 1),
        ("switchpoint_handshakes_total", {"protocol": "other", "reason": "no-common-protocol"}, 1),
        ("switchpoint_refusals_total", {"reason": "no-common-protocol"}, 1),
        ("switchpoint_sessions", {"protocol": "websocket"}, 1),
        ("switchpoint_message_size_bytes_count", {"direction": "in"}, 2),
        ("switchpoint_message_size_bytes_sum", {"direction": "out"}, 105),
        ("switchpoint_message_size_bytes_bucket", {"direction": "out", "le": "16"}, 1),
    ]:
        grown = value(after, name, **labels) - value(before, name, **labels)
        assert grown == more, f"{name} {labels}: {grown} more, not {more}"
    known = {sample.name: sample for family in after for sample in family.samples}
    for family in families:
        assert family.documentation, family.name
        for sample in family.samples:
            assert sample.name in known, f"{sample.name} is in one format only"
    for family in after:
        assert family.type in ("counter", "gauge", "histogram"), family
    for name in ("process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds"):
        assert value(families, name) > 0, name
    assert abs(time.time() - value(families, "process_start_time_seconds")) < 86400
    print(f"ok: {len(families)} metrics, {sum(len(family.samples) for family in families)} samples, in both formats")


main()
