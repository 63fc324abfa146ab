#!/bin/sh
# Sets everything up, saying what it does; quick when there is nothing to do. `make setup` calls it, and `make test` with
# `tests`, for what only tests and benchmarks need.
#
#   system packages   by apt, as root or with passwordless sudo; otherwise the command to type is printed
#   .venv             from constraints.txt; the CPU build of torch unless TORCH=cuda
set -eu
cd "$(dirname "$0")"
for_tests=${1:-}
case "$for_tests" in "" | tests) ;; *) echo "usage: ./setup.sh [tests]" >&2; exit 2 ;; esac
say() { printf 'setup: %s\n' "$*" >&2; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

install_system() { # PACKAGE...
    if ! command -v apt-get >/dev/null; then
        say "missing: $*; install them with this system's package manager"
        return 0
    fi
    if ! as_root true 2>/dev/null; then
        say "missing: $*; type: sudo apt-get install -y $*"
        return 0
    fi
    say "installing by apt: $*"
    as_root sh -c "apt-get update -q >/dev/null; DEBIAN_FRONTEND=noninteractive apt-get install -y -q $* >/dev/null" ||
        say "apt failed; try: sudo apt-get update && sudo apt-get install -y $*"
}

kernel_has_netem() {
    as_root unshare --net tc qdisc add dev lo root netem delay 1ms 2>/dev/null
}

missing=""
command -v tc >/dev/null || [ -x /sbin/tc ] || missing="$missing iproute2"
command -v ethtool >/dev/null || [ -x /sbin/ethtool ] || missing="$missing ethtool"
command -v nsenter >/dev/null || missing="$missing util-linux"
command -v ssh >/dev/null || missing="$missing openssh-client"
command -v rsync >/dev/null || missing="$missing rsync"
[ -z "$for_tests" ] || command -v shellcheck >/dev/null || missing="$missing shellcheck" # the scripts are held to it
PYTHON=${PYTHON:-python3}
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
# shellcheck disable=SC2086  # a list of words
[ -z "$missing" ] || install_system $missing
if ! kernel_has_netem && ! command -v linux.uml >/dev/null; then
    say "this kernel has no netem: a user-mode Linux router will shape the link instead"
    install_system user-mode-linux busybox-static
fi

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    say "$("$PYTHON" --version) is too old, 3.10 or newer is needed: make setup PYTHON=python3.11"
    exit 1
}
[ -x .venv/bin/python ] || { say "making .venv with $("$PYTHON" --version)"; "$PYTHON" -m venv .venv; }

if ! .venv/bin/python -c 'import torch' 2>/dev/null; then
    cpu_index=https://download.pytorch.org/whl/cpu
    index=""
    if [ "${TORCH:-cpu}" = cpu ] && .venv/bin/python -c "
import urllib.request as r; r.urlopen('$cpu_index/torch/', timeout=5)" 2>/dev/null; then
        index="--extra-index-url $cpu_index"
    fi
    say "installing torch (the largest part)"
    # shellcheck disable=SC2086
    .venv/bin/pip install -q --disable-pip-version-check -c constraints.txt $index torch
fi
say "installing the testbed and its libraries into .venv"
.venv/bin/pip install -q --disable-pip-version-check -c constraints.txt \
    -e ".[report,nvidia,parallel${for_tests:+,frames,mlflow,dev}]"
.venv/bin/python -m compileall -q nodes transport netem experiments >/dev/null || true
say "done"
