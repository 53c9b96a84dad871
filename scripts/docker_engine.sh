#!/usr/bin/env bash
# docker_engine.sh start: makes a container engine answer, installing Debian's one if need be.
# docker_engine.sh stop: ends the engine that `start` started; one that was running before goes on.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
note=$cache/dockerd.pid
log=$cache/dockerd.log

answers() { docker info >/dev/null 2>&1; }

start() {
    command -v docker >/dev/null && answers && return
    command -v dockerd >/dev/null || apt_install docker.io iptables
    answers && return
    [ "$(id -u)" = 0 ] || die "no container engine answers, and starting one takes root"
    say "starting dockerd"
    setsid dockerd >"$log" 2>&1 </dev/null & # its own session: an interrupted test run stops it through `stop`
    echo $! >"$note"
    for _ in $(seq 120); do
        answers && return
        kill -0 "$(cat "$note")" 2>/dev/null || break
        sleep 0.5
    done
    tail -n 5 "$log" >&2
    stop
    die "dockerd did not start; its log is $log"
}

stop() {
    [ -f "$note" ] || return 0
    local pid
    pid=$(cat "$note")
    rm "$note"
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ] || return 0
    kill "$pid"
    say "stopping dockerd"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.2; done
}

case ${1:-} in
start | stop) "$1" ;;
*) die "usage: docker_engine.sh start|stop" ;;
esac
