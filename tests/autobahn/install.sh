#!/usr/bin/env bash
# install.sh DIR: the Autobahn TestSuite, as DIR/bin/wstest, unless it is there already.
# It is a program for CPython 2.7, and gcc builds parts of it. Exit 77, and a last line that says why,
# where it cannot be had.
set -uo pipefail
dir=${1:?where to install}
here=$(cd "$(dirname "$0")" && pwd)
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_NO_PYTHON_VERSION_WARNING=1

[[ -e $dir/done ]] && exit 0
unavailable() { echo "$*"; exit 77; }

# A pyenv shim is on the PATH even where it leads nowhere, so ask each candidate whether it runs.
python=''
for candidate in python2.7 python2 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/2.7.*/bin/python2.7; do
  if "$candidate" -c 'import sys; assert sys.version_info[:2] == (2, 7)' 2>/dev/null; then
    python=$candidate
    break
  fi
done
[[ -n $python ]] || unavailable "no CPython 2.7 on this machine"
command -v gcc >/dev/null || unavailable "no gcc on this machine, which parts of the Autobahn TestSuite are built with"

log=$(mktemp)
tool=$(mktemp -d)
trap 'rm -rf "$log" "$tool"' EXIT
step() {
  "$@" >"$log" 2>&1 && return
  cat "$log"
  unavailable "the Autobahn TestSuite could not be installed: $(tail -n 1 "$log")"
}

echo "installing the Autobahn TestSuite with $("$python" --version 2>&1)"
rm -rf "$dir"
step "$python" -m pip install -q --target "$tool" virtualenv==20.15.1
step env PYTHONPATH="$tool" "$python" -m virtualenv -q "$dir"
step "$dir/bin/pip" install -q -r "$here/requirements.txt"
step "$dir/bin/wstest" --help
touch "$dir/done"
