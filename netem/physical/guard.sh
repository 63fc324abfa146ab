#!/bin/sh
# Watches over one shaped interface, from the folder that says how to undo it (its working directory; $1 is its path).
# Undoes everything once the time in `deadline` has come, when told to end, or when the program that is still setting
# up (process $2) dies before it wrote `state.json`. Needs a shell, tc, ip, ethtool; no Python.
folder=$1
caller=$2
export PATH="/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin" LC_ALL=C

undo_all() {
    trap '' TERM INT
    mv deadline expired
    if sh ./undo.sh; then
        rm -rf "$folder"
    fi
    exit
}

caller_lives() { # a zombie has no command line
    grep -q . "/proc/$caller/cmdline" 2>/dev/null
}

trap '' HUP
trap undo_all TERM INT
echo $$ >guard.new && mv guard.new guard.pid

while [ -e journal.json ]; do # gone: taken back without us
    [ -e state.json ] || caller_lives || undo_all
    deadline=$(cat deadline)
    read -r uptime _ </proc/uptime # counts while the machine sleeps, and nobody sets it
    [ "$deadline" = never ] || [ "${uptime%.*}" -lt "$deadline" ] || undo_all
    sleep 1 &
    wait $! # which a signal ends at once
done
