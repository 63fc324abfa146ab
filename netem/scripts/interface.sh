#!/bin/sh
# A link on a real interface: the traffic with one peer goes through tc netem, nothing else does, SSH never.
# Needs root, a POSIX shell, tc and ip (iproute2), ethtool, setsid (util-linux).
#
#   up        shapes the interface; after DEAD_MAN_S seconds everything is undone, unless confirmed or renewed
#   confirm   stays until `down`
#   renew     the time starts again
#   down      everything is as it was
#   status    what is in force
#   commands  prints what `up` would run
set -eu

IFACE=eth0
PEER=192.0.2.2
FAMILY=ip
PORTS=''
EXEMPT='22'
EGRESS='limit 1000 delay 20ms'
INGRESS='limit 1000 delay 20ms'
DEAD_MAN_S=120
IFB=ifb-eth0
# FAMILY is the peer's, ip or ip6. PORTS: only TCP and UDP of these, on either side; '' is all traffic with the peer.
# EXEMPT: TCP ports never shaped. EGRESS, INGRESS: netem's arguments for what leaves and what comes in; '' is untouched.

STATE=/run/dssd-link-$IFACE # how to undo it, written before the first change
export PATH="/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin" LC_ALL=C
case $FAMILY in
    ip) PROTOCOL=ip HOST=$PEER/32 ;;
    *) PROTOCOL=ipv6 HOST=$PEER/128 ;;
esac

say() { echo "link on $IFACE: $*" >&2; }

die() {
    say "$*"
    exit 1
}

run() { "$@"; }

# The interface as it is -------------------------------------------------------------------------------------------

look() { # sets discipline, fresh, offloads (features with their values) and switched (those to be turned off)
    qdiscs=$(tc qdisc show dev "$IFACE") || die "there is no such interface"
    case $(ip link show dev "$IFACE") in *[\<,]UP[,\>]*) ;; *) die "it is down: ip link set $IFACE up" ;; esac
    foreign=$(echo "$qdiscs" | grep -v '^qdisc [a-z_]* 0: ' || true) # only what the kernel chose has no handle
    [ -z "$foreign" ] || die "somebody made a queueing discipline, it is left as it is. Remove it first: $foreign"
    [ ! -e "/sys/class/net/$IFB" ] || die "there is an interface $IFB already: ip link del $IFB"
    discipline=$(echo "$qdiscs" | awk '$2 != "mq" { print $2; exit }')
    fresh=$(cat /proc/sys/net/core/default_qdisc 2>/dev/null || echo "$discipline")
    features=$(ethtool -k "$IFACE") || die "ethtool cannot read its features"
    offloads=$(echo "$features" | sed -n \
        -e '/\[fixed\]/d' -e 's/: off \[requested on\]/: on/' -e 's/: on \[requested off\]/: on/' \
        -e 's/^[[:space:]]*\(tx-tcp[^:]*\|generic-[^:]*-offload\|large-receive-offload\|rx-gro-[^:]*\): \(o[nf]*\).*/\1 \2/p')
    switched=
    for pair in tso=tcp-segmentation gso=generic-segmentation gro=generic-receive lro=large-receive; do
        if echo "$features" | grep -v '\[fixed\]' | grep -q "^${pair#*=}-offload: on"; then
            switched="$switched ${pair%=*} off"
        fi
    done
}

ssh_ports() { # EXEMPT, what sshd listens on, and where the SSH connection we came by comes in
    # shellcheck disable=SC2086  # four words
    set -- ${SSH_CONNECTION:-}
    listening=$(ss -Hltnp 2>/dev/null | awk '/"sshd/ { sub(/.*:/, "", $4); print $4 }')
    # shellcheck disable=SC2086  # lists of words
    printf '%s\n' $EXEMPT ${4:-} $listening | sort -nu | tr '\n' ' '
}

# The link ---------------------------------------------------------------------------------------------------------

# shellcheck disable=SC2086  # lists of words
build() {
    [ -z "$switched" ] || run ethtool -K "$IFACE" $switched
    if [ -n "$EGRESS" ]; then
        run tc qdisc add dev "$IFACE" root handle d55d: prio bands 2 priomap 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
        if [ "$discipline" != noqueue ]; then
            run tc qdisc add dev "$IFACE" parent d55d:1 handle d55e: "$discipline"
        fi
        run tc qdisc add dev "$IFACE" parent d55d:2 handle d55f: netem $EGRESS
        exempt d55d: d55d:1
        divert d55d: dst flowid d55d:2
    fi
    if [ -n "$INGRESS" ]; then
        run ip link add "$IFB" type ifb
        run tc qdisc add dev "$IFB" root handle d55f: netem $INGRESS
        run ip link set "$IFB" up
        run tc qdisc add dev "$IFACE" handle ffff: ingress
        exempt ffff: ffff:1
        divert ffff: src action mirred egress redirect dev "$IFB"
    fi
}

exempt() { # PARENT CLASS
    for port in $EXEMPT; do
        for side in sport dport; do
            run tc filter add dev "$IFACE" parent "$1" protocol "$PROTOCOL" prio 10 u32 \
                match "$FAMILY" protocol 6 0xff match "$FAMILY" "$side" "$port" 0xffff flowid "$2"
        done
    done
    [ "$FAMILY" = ip ] || for kind in 133 134 135 136 137; do # ICMPv6: how neighbours find each other
        run tc filter add dev "$IFACE" parent "$1" protocol "$PROTOCOL" prio 10 u32 \
            match "$FAMILY" protocol 58 0xff match "$FAMILY" icmp_type "$kind" 0xff flowid "$2"
    done
}

divert() { # PARENT SRC-OR-DST WHERE-TO...
    parent=$1 end=$2
    shift 2
    if [ -z "$PORTS" ]; then
        run tc filter add dev "$IFACE" parent "$parent" protocol "$PROTOCOL" prio 20 u32 \
            match "$FAMILY" "$end" "$HOST" "$@"
    fi
    for port in $PORTS; do
        for protocol in 6 17; do # TCP and UDP
            for side in sport dport; do
                run tc filter add dev "$IFACE" parent "$parent" protocol "$PROTOCOL" prio 20 u32 \
                    match "$FAMILY" "$end" "$HOST" match "$FAMILY" protocol "$protocol" 0xff \
                    match "$FAMILY" "$side" "$port" 0xffff "$@"
            done
        done
    done
}

undo() { # prints the commands that take it back
    [ -z "$INGRESS" ] || echo "tc qdisc del dev $IFACE ingress"
    if [ -n "$EGRESS" ]; then
        other=$discipline
        [ "$other" != noqueue ] || other=$fresh
        [ "$other" = "$fresh" ] || echo "sysctl -q -w net.core.default_qdisc=$other"
        echo "tc qdisc del dev $IFACE root handle d55d:"
        [ "$other" = "$fresh" ] || echo "sysctl -q -w net.core.default_qdisc=$fresh"
    fi
    [ -z "$INGRESS" ] || echo "ip link del $IFB"
    # shellcheck disable=SC2086  # a list of words
    [ -z "$switched" ] || echo ethtool -K "$IFACE" $offloads
}

# What one can ask for ---------------------------------------------------------------------------------------------

up() {
    [ "$(id -u)" = 0 ] || die "run it as root"
    [ ! -e "$STATE" ] || die "it is up already: $0 down"
    look
    EXEMPT=$(ssh_ports)
    mkdir "$STATE"
    undo >"$STATE/undo"
    cp "$0" "$STATE/link.sh"
    trap 'say "undone, because of the error above"; take_back' EXIT
    trap 'exit 1' INT TERM HUP
    renew # first of all the way back
    [ -e /sys/module/ifb ] || modprobe ifb numifbs=0 2>/dev/null || true
    build
    trap - EXIT INT TERM HUP
}

renew() { # a timer of its own session, which only ends what it was started for; SIGTERM makes its time come at once
    [ -e "$STATE/undo" ] || die "it is not up"
    command -v setsid >/dev/null || die "there is no setsid, which the timer needs: apt install util-linux"
    token=$$-$(cat /proc/uptime)
    echo "$token" >"$STATE/timer"
    # shellcheck disable=SC2016  # expanded in there
    setsid sh -c 'trap "" HUP; trap : TERM INT; sleep "$1" & wait $! || kill $!; trap "" TERM INT
        [ "$(cat "$2/timer" 2>/dev/null)" != "$3" ] || sh "$2/link.sh" down' \
        timer "$DEAD_MAN_S" "$STATE" "$token" </dev/null >/dev/null 2>&1 &
    say "undone in $DEAD_MAN_S s, unless: $0 confirm, or $0 renew"
}

confirm() {
    [ -e "$STATE/undo" ] || die "it is not up"
    rm -f "$STATE/timer"
}

down() {
    [ -e "$STATE/undo" ] || die "it is not up"
    take_back
}

take_back() {
    trap - EXIT
    trap '' INT TERM HUP # whole, once begun
    failed=
    while read -r line; do
        said=$($line 2>&1) || case $said in
            *'Invalid handle'* | *'Cannot find'* | *'No such'*) ;; # gone already
            *) failed=yes && say "$line: $said" ;;
        esac
    done <"$STATE/undo"
    [ -z "$failed" ] || die "not all could be undone, see above; $STATE/undo has the commands"
    rm -rf "$STATE"
}

status() {
    [ -e "$STATE/undo" ] || die "it is not up"
    if [ -e "$STATE/timer" ]; then say "not confirmed"; else say "stays until: $0 down"; fi
    tc -s qdisc show dev "$IFACE"
    [ -z "$INGRESS" ] || tc -s qdisc show dev "$IFB"
}

commands() {
    look
    EXEMPT=$(ssh_ports)
    run() { echo "$@"; }
    build
}

case ${1:-} in
    up | renew | confirm | down | status | commands) "$1" ;;
    *) die "say one of: up renew confirm down status commands" ;;
esac
