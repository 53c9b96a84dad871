#!/usr/bin/env bash
# `make test`: brings the parts that the tests need, then runs every check and every test. A part that this machine
# can't have is named, and its tests are left out; with CI=true it ends the run. What was started here is stopped.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
export PATH="$cache/bin:$PATH"
left_out=()
tests=

# Tests run in a process group of their own, so that an interrupt reaches pytest alone: it then stops its brokers
# and servers in order. What is still in the group afterwards has lost its parent.
finish() {
    local code=$?
    trap '' INT TERM
    if [ -n "$tests" ]; then
        kill -INT "$tests" 2>/dev/null && wait "$tests" || true
        kill -KILL -- "-$tests" 2>/dev/null || true
    fi
    scripts/docker_engine.sh stop
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

part() { # part TESTS-THAT-NEED-IT COMMAND…: bring a part, or note what is left out
    "${@:2}" >/dev/null && return
    [ "${CI:-}" != true ] || die "CI=true: $1 must not be left out"
    left_out+=("$1 (the reason is above and with the skipped tests)")
}

containers() { scripts/docker_engine.sh start && scripts/kafka_image.sh; }

make --no-print-directory check
part "tests with SmolLM2" .venv/bin/lmt2 fetch-models
part "tests on a Kafka broker in a Java process" scripts/kafka_jars.sh
part "tests on containers" containers
part "tests of the alerts" scripts/prometheus.sh
part "tests of the Kubernetes manifests" scripts/kustomize.sh
part "tests on vLLM" scripts/vllm_cpu.sh

set -m
.venv/bin/python -m pytest "$@" </dev/null &
tests=$!
set +m
code=0
wait "$tests" || code=$?

for reason in "${left_out[@]}"; do say "left out on this machine: $reason"; done
exit "$code"
