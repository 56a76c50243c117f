#!/usr/bin/env bash
# curl.sh http://HOST:PORT: what curl sees of a running server. Exit 1 if a check fails.
set -uo pipefail
base=${1:?the address of the server, as http://HOST:PORT}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failures=0

# get OPTION…: one or more transfers; headers and body are kept. What -w prints goes to $written.
get() {
  : >"$work/head"; : >"$work/body"
  written=$(curl -sS --noproxy '*' --max-time 10 -D "$work/head" -o "$work/body" -w '%{http_code} %{http_version}' "$@" 2>"$work/error")
  error=$?
}
# check WHAT CONDITION…: the condition is a command.
check() {
  local what=$1
  shift
  if "$@"; then
    echo "ok      $what"; passed=$((passed + 1))
  else
    echo "FAILED  $what"; failures=$((failures + 1))
    { echo "curl: exit code $error, wrote '$written'"; cat "$work/error" "$work/head"; head -c 1000 "$work/body"; echo; } | sed 's/^/        | /'
  fi
}
answered() { [[ $error -eq 0 && $written == "$1" ]]; }
header() { tr -d '\r' <"$work/head" | grep -Eiq "^$1: *$2"; }
body() { grep -Eiq "$1" "$work/body"; }
length_is() { [[ $(tr -d '\r' <"$work/head" | sed -n 's/^content-length: *//Ip') == "$1" ]]; }

get "$base/"
check "/ is 200" answered "200 1.1"
check "/ is HTML" header content-type text/html
check "/ has a page in it" body '<html|<!doctype html'
length=$(wc -c <"$work/body")

get "$base/healthz"
check "/healthz is 200" answered "200 1.1"

get "$base/nope"
check "/nope is 404" answered "404 1.1"
check "/nope says no-such-path" body no-such-path

get "$base/echo"
check "a plain request for /echo is 426" answered "426 1.1"
check "the 426 offers websocket" header upgrade '.*\bwebsocket\b'
check "the 426 offers echo" header upgrade '.*\becho\b'
check "the 426 has Connection: upgrade" header connection '.*\bupgrade\b'

get --head "$base/"
check "HEAD / is 200" answered "200 1.1"
check "HEAD / has the length that GET has" length_is "$length"

get -H 'Accept: application/problem+json' "$base/nope"
check "problem+json on request: 404" answered "404 1.1"
check "problem+json on request: its type" header content-type 'application/problem\+json'
problem() {
  python3 - "$work/body" <<'PYTHON'
import json, sys
problem = json.load(open(sys.argv[1]))
assert problem["status"] == 404 and problem["title"], problem
assert "no-such-path" in json.dumps(problem), problem
PYTHON
}
check "problem+json on request: a problem of RFC 9457" problem

get --http1.0 "$base/healthz"
check "HTTP/1.0 gets its 200" test "$error/${written%% *}" = 0/200

# Reused means that the first answer ended where its length said; for HEAD, that no body came.
reused() { [[ $error -eq 0 && $written == "200 1;200 0;" ]]; }
get -w '%{http_code} %{num_connects};' "$base/healthz" -o "$work/body2" "$base/"
check "two requests on one connection" reused
get --head -w '%{http_code} %{num_connects};' "$base/" -o "$work/body2" "$base/healthz"
check "two HEAD requests on one connection" reused

if curl --version | grep -q HTTP2; then
  get --http2 "$base/healthz"
  check "an offer of h2c that is not taken is ordinary HTTP/1.1" answered "200 1.1"
else
  echo "skipped: this curl has no HTTP/2, so it cannot offer h2c"
fi

echo "curl: $passed checks ok, $failures failed"
[[ $failures -eq 0 ]]
