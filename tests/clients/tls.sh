#!/usr/bin/env bash
# tls.sh HOST:PORT CA LOG: curl, openssl s_client and node against a server with TLS, whose log (at debug) is LOG.
# What is not installed is left out, and said. Exit 1 if a check fails.
set -uo pipefail
address=${1:?HOST:PORT} ca=${2:?the certificate that is trusted} log=${3:?the log of the server}
here=$(cd "$(dirname "$0")" && pwd)
failures=0 passed=0
ok() { passed=$((passed + 1)); echo "ok      $1"; }
failed() { failures=$((failures + 1)); echo "FAILED  $1"; }

# same WHAT GOT WANTED
same() { if [[ $2 == "$3" ]]; then ok "$1"; else failed "$1: got '$2', wanted '$3'"; fi; }
# has WHAT TEXT PART
has() { if [[ $2 == *"$3"* ]]; then ok "$1"; else failed "$1: no '$3' in '${2:0:300}'"; fi; }

if command -v curl >/dev/null; then
  get() { curl -sS --noproxy '*' --max-time 10 --cacert "$ca" "$@" 2>&1; }
  same "curl: HTTP/1.1" "$(get --http1.1 -o /dev/null -w '%{http_code} %{http_version}' "https://$address/")" "200 1.1"
  same "curl: HTTP/2 by ALPN" "$(get --http2 -o /dev/null -w '%{http_code} %{http_version}' "https://$address/")" "200 2"
  same "curl: TLS 1.2" "$(get --tls-max 1.2 -o /dev/null -w '%{http_code}' "https://$address/healthz")" "200"
  same "curl: TLS 1.1 is not spoken" "$(get --tls-max 1.1 -o /dev/null -w '%{http_code}' "https://$address/healthz" | tail -c 3)" "000"
  same "curl: the upgrade to h2c is not made" \
    "$(get --http1.1 -H 'Connection: Upgrade, HTTP2-Settings' -H 'Upgrade: h2c' -H 'HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA' \
      -o /dev/null -w '%{http_code} %{http_version}' "https://$address/healthz")" "200 1.1"
  has "curl: plain HTTP is told" "$(curl -sS --noproxy '*' --max-time 10 "http://$address/")" "This port speaks TLS"
  has "curl: who does not trust us says so" "$(curl -sS --noproxy '*' --max-time 10 "https://$address/" 2>&1)" "certificate"
else
  echo "skipped: curl is not installed"
fi

if command -v openssl >/dev/null; then
  client() { timeout 10 openssl s_client -connect "$address" -CAfile "$ca" -servername localhost "$@" 2>&1; }
  for version in tls1_2 tls1_3; do
    said=$(printf 'GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' | client -$version -ign_eof -alpn http/1.1)
    has "openssl $version: it is verified" "$said" "Verify return code: 0 (ok)"
    has "openssl $version: ALPN" "$said" "ALPN protocol: http/1.1"
    has "openssl $version: an answer" "$said" "HTTP/1.1 200 OK"
    session=$(mktemp)
    printf 'GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' | client -$version -ign_eof -sess_out "$session" >/dev/null
    said=$(printf 'GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' | client -$version -ign_eof -sess_in "$session")
    rm -f "$session"
    has "openssl $version: the session goes on" "$said" "Reused, TLSv1.${version#tls1_}"
  done
  # R renegotiates, K updates the keys; each on a line of its own.
  said=$( (printf 'GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n'; sleep 0.5; echo K; sleep 0.5; printf 'GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'; sleep 0.5) | client -tls1_3)
  same "openssl: an update of the keys" "$(grep -c 'HTTP/1.1 200 OK' <<<"$said")" "2"
  said=$( (printf 'GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n'; sleep 0.5; echo R; sleep 1) | client -tls1_2)
  has "openssl: no renegotiation" "$said" "no renegotiation"
else
  echo "skipped: openssl is not installed"
fi

if command -v node >/dev/null; then
  before=$(grep -c 'secured' "$log")
  if NODE_EXTRA_CA_CERTS=$ca timeout 60 node "$here/websocket_on_stream.mjs" "https://localhost:${address##*:}"; then
    ok "node: 50 WebSockets on one connection of HTTP/2"
  else
    failed "node: WebSockets on HTTP/2"
  fi
  same "node: it was one connection" "$(($(grep -c 'secured' "$log") - before))" "1"
else
  echo "skipped: node is not installed"
fi

echo "tls: $passed checks ok, $failures failed"
[[ $failures -eq 0 ]]
