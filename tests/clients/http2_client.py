"""http2_client.py http://HOST:PORT: PyPI's pycurl (a newer libcurl) and h2 against examples/http2.rs.

pycurl: GET and POST with the upgrade, sizes 0 to 3,000,000. h2: the upgrade by hand, its answer on stream 1, and the
preface byte by byte. Exit code 1 if a check fails.
"""

import io
import socket
import sys
import urllib.parse

import h2.connection
import h2.config
import h2.events
import pycurl

base = sys.argv[1]
url = urllib.parse.urlsplit(base)
failures = 0


def check(what, condition, detail=""):
    global failures
    failures += not condition
    print("ok     " if condition else "FAILED ", what, "" if condition else detail)


def content(size):
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def transfer(version, path, body=None):
    got, curl = io.BytesIO(), pycurl.Curl()
    curl.setopt(pycurl.URL, base + path)
    curl.setopt(pycurl.HTTP_VERSION, version)
    curl.setopt(pycurl.WRITEDATA, got)
    curl.setopt(pycurl.TIMEOUT, 20)
    curl.setopt(pycurl.NOPROXY, "*")
    if body is not None:
        curl.setopt(pycurl.POST, 1)
        curl.setopt(pycurl.POSTFIELDSIZE, len(body))
        curl.setopt(pycurl.READDATA, io.BytesIO(body))
    curl.perform()
    answer = curl.getinfo(pycurl.RESPONSE_CODE), curl.getinfo(pycurl.INFO_HTTP_VERSION)
    curl.close()
    return answer, got.getvalue()


HTTP2 = 3  # CURL_HTTP_VERSION_2_0, asked for by the upgrade
for size in (0, 1, 65535, 65536, 70000, 300000, 3000000):
    for body in (None, content(size)):
        what = f"pycurl {pycurl.version_info()[1]}: {'GET' if body is None else 'POST'} of {size} bytes, 5 times"
        results = [transfer(HTTP2, f"/bytes?{size}", body) for _ in range(5)]
        wrong = [(answer, len(got)) for answer, got in results if answer != (200, HTTP2) or got != content(size)]
        check(what, not wrong, wrong)


def upgraded(cut):
    """Upgrades, sends the preface in pieces of `cut`, and gives the body on stream 1 and the acknowledgements."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    settings = connection.initiate_upgrade_connection()
    link = socket.create_connection((url.hostname, url.port), timeout=10)
    link.sendall(
        b"GET /bytes?1000 HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: " + settings + b"\r\n\r\n"
    )
    head = b""
    while b"\r\n\r\n" not in head:
        head += link.recv(1)
    assert head.startswith(b"HTTP/1.1 101 "), head
    preface = connection.data_to_send()
    for start in range(0, len(preface), cut):
        link.sendall(preface[start : start + cut])
    body, acks = b"", 0
    while True:
        for event in connection.receive_data(link.recv(65536)):
            if isinstance(event, h2.events.DataReceived):
                body += event.data
            elif isinstance(event, h2.events.SettingsAcknowledged):
                acks += 1
            elif isinstance(event, h2.events.StreamEnded):
                link.close()
                return body, acks
        link.sendall(connection.data_to_send())


for cut in (1, 7, 1000):
    body, acks = upgraded(cut)
    check(f"h2: an upgrade, its preface in pieces of {cut}", body == content(1000) and acks == 1, (len(body), acks))

sys.exit(failures != 0)
