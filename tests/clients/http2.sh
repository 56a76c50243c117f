#!/usr/bin/env bash
# http2.sh http://HOST:PORT ROUNDS: curl, nghttp and h2load against examples/http2.rs. Exit 1 if a check fails.
set -uo pipefail
base=${1:?the address of the server, as http://HOST:PORT}
rounds=${2:-20}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failures=0
ok() { passed=$((passed + 1)); echo "ok      $1"; }
failed() { failures=$((failures + 1)); echo "FAILED  $1"; }

sizes=(0 1 1000 65535 65536 70000 300000 3000000)
# The same bytes as the server's: each place modulo 251.
python3 - "$work" "${sizes[@]}" <<'PYTHON'
import sys
for size in map(int, sys.argv[2:]):
    open(f"{sys.argv[1]}/{size}", "wb").write((bytes(range(251)) * (size // 251 + 1))[:size])
PYTHON

# transfer WHAT BYTES OPTION…: each round comes back as HTTP/2, with a 200 and these bytes, which are also its input.
transfer() {
  local what=$1 expected=$2 round written error=0
  shift 2
  for ((round = 1; round <= rounds; round++)); do
    written=$(curl -sS --noproxy '*' --max-time 20 -o "$work/out" -w '%{http_code} %{http_version}' "$@" 2>"$work/error" <"$expected")
    error=$?
    if [[ $error -ne 0 || $written != "200 2" ]] || ! cmp -s "$expected" "$work/out"; then
      failed "$what, round $round: exit code $error, '$written', $(wc -c <"$work/out") bytes; $(head -n 1 "$work/error")"
      return
    fi
    : >"$work/out"
  done
  ok "$what"
}

for way in --http2 --http2-prior-knowledge; do
  for size in "${sizes[@]}"; do
    transfer "curl $way: GET of $size bytes" "$work/$size" $way "$base/bytes?$size"
    [[ $size -gt 0 ]] || continue
    transfer "curl $way: POST of $size bytes" "$work/$size" $way -H Expect: --data-binary "@$work/$size" "$base/bytes"
    transfer "curl $way: POST of $size bytes in chunks" "$work/$size" $way -H Expect: -X POST -T - "$base/bytes"
    transfer "curl $way: POST of $size bytes, expecting a 100" "$work/$size" $way -H 'Expect: 100-continue' --data-binary "@$work/$size" "$base/bytes"
  done
  written=$(curl -sS --noproxy '*' --max-time 10 --head -o "$work/out" -w '%{http_code} %{http_version}' $way "$base/bytes?70000")
  if [[ $written == "200 2" ]] && tr -d '\r' <"$work/out" | grep -qi '^content-length: 70000$'; then ok "curl $way: HEAD"; else failed "curl $way: HEAD: $written"; fi
done

# nghttp ends at an acknowledgement too many; its log has every frame.
frames() {
  local what=$1 expected=$2
  shift 2
  if ! timeout 20 nghttp -v "$@" >"$work/log" 2>&1; then failed "nghttp $what: exit code"; return; fi
  local acks errors
  acks=$(grep -a -A1 'recv SETTINGS frame <length=0, flags=0x01' "$work/log" | grep -ac ACK)
  errors=$(grep -ac -E 'recv GOAWAY|\[ERROR\]|not processed' "$work/log")
  if [[ $acks -ne 1 || $errors -ne 0 ]]; then failed "nghttp $what: $acks acknowledgements, $errors errors"; return; fi
  timeout 20 nghttp "$@" >"$work/out" 2>/dev/null
  if cmp -s "$expected" "$work/out"; then ok "nghttp $what"; else failed "nghttp $what: $(wc -c <"$work/out") bytes came"; fi
}
if command -v nghttp >/dev/null; then
  for size in 1 65536 3000000; do
    frames "-u: GET of $size bytes" "$work/$size" -u "$base/bytes?$size"
    frames "-u: POST of $size bytes" "$work/$size" -u -d "$work/$size" "$base/bytes"
    frames "prior knowledge: GET of $size bytes" "$work/$size" "$base/bytes?$size"
  done
else
  echo "skipped: nghttp is not installed"
fi
if command -v h2load >/dev/null; then
  if h2load -n 20000 -c 8 -m 32 "$base/hello" 2>&1 | grep -q '20000 succeeded, 0 failed'; then ok "h2load: 20000 requests"; else failed "h2load: 20000 requests"; fi
else
  echo "skipped: h2load is not installed"
fi

echo "http2: $passed checks ok, $failures failed"
[[ $failures -eq 0 ]]
