#!/bin/sh
# A link between two namespaces of this machine, through a router with tc netem on both its ports.
# Needs root, a kernel with sch_netem, ip and tc (iproute2), ethtool, sysctl, nsenter. Nothing outside the namespaces is
# touched, so deleting them undoes everything.
#
#   up      builds it; then, for instance:  nsenter --net=/run/netns/DEVICE -- COMMAND
#   down    ends what runs in it and deletes it
#   status  what is in force
set -eu

NAMESPACES='DEVICE ROUTER EDGE'
# LINK

export PATH="/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin" LC_ALL=C

die() {
    echo "lab: $*" >&2
    exit 1
}

up() {
    [ "$(id -u)" = 0 ] || die "run it as root"
    for name in $NAMESPACES; do
        [ ! -e "/run/netns/$name" ] || die "it is up already ($name): $0 down"
    done
    trap 'down; die "not built, see above"' EXIT
    trap 'exit 1' INT TERM HUP
    build
    trap - EXIT INT TERM HUP
}

build() {
    set -e
    # COMMANDS
}

down() {
    trap - EXIT
    for name in $NAMESPACES; do
        if [ -e "/run/netns/$name" ]; then
            # shellcheck disable=SC2046  # a list of numbers
            kill -9 $(ip netns pids "$name") 2>/dev/null || true
            ip netns del "$name"
        fi
    done
}

status() {
    for name in $NAMESPACES; do
        [ -e "/run/netns/$name" ] || die "it is not up"
        echo "$name"
        ip -n "$name" -br address
        tc -n "$name" -s qdisc show | grep -A 3 netem || true
    done
}

case ${1:-} in
    up | down | status) "$1" ;;
    *) die "say one of: up down status" ;;
esac
