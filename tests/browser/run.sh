#!/usr/bin/env bash
# Drives the built-in page, or a report of the load generator, in headless Chromium.
#   tests/browser/run.sh URL [OUT_DIR]
# URL      the page of a running server, such as http://127.0.0.1:8080/, or file:///…/report.html
# OUT_DIR  where the screenshots go (default: a new temporary directory)
# Exit: 0 all checks passed, 1 a check failed, 2 wrong usage, 77 skipped.
set -u

PLAYWRIGHT=1.65.1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/switchpoint-tests/browser

skip() { echo "SKIPPED browser: $1"; exit 77; }

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
  echo "usage: $0 URL [OUT_DIR]" >&2
  exit 2
fi
url=$1
out=${2:-$(mktemp -d)}
mkdir -p "$out" || exit 2

find_chromium() {
  local c
  for c in "${CHROMIUM:-}" /usr/bin/chromium /usr/bin/chromium-browser /usr/bin/google-chrome; do
    [ -n "$c" ] && [ -x "$c" ] && { echo "$c"; return; }
  done
  return 1
}

if ! chromium=$(find_chromium); then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    { timeout 120 apt-get update && DEBIAN_FRONTEND=noninteractive timeout 300 \
      apt-get install -y --no-install-recommends chromium; } >/dev/null 2>&1
  fi
  chromium=$(find_chromium) || skip "no chromium, and it could not be installed"
fi
command -v node >/dev/null || skip "no node"

major=$(node -p 'process.versions.node.split(".")[0]')
[ "$major" -ge 18 ] || skip "node $major is too old (18 or later needed)"

have=$(node -p 'require(process.argv[1]).version' \
  "$cache/node_modules/playwright-core/package.json" 2>/dev/null)
if [ "$have" != "$PLAYWRIGHT" ]; then
  command -v npm >/dev/null || skip "no npm to install playwright-core"
  mkdir -p "$cache" || skip "cannot create $cache"
  timeout 180 npm install --prefix "$cache" --no-save --no-audit --no-fund \
    --ignore-scripts "playwright-core@$PLAYWRIGHT" >/dev/null 2>&1 \
    || skip "playwright-core $PLAYWRIGHT could not be installed"
fi

export CHROMIUM=$chromium PLAYWRIGHT_CORE=$cache/node_modules/playwright-core
if [ -n "${SPKI:-}" ]; then
  node "$here/tls.mjs" "$url" "$SPKI"
elif [[ $url == file:* ]]; then
  node "$here/report.mjs" "$url" "$out"
else
  node "$here/page.mjs" "$url" "$out"
fi
