#!/usr/bin/env bash
# Makes a Kafka image available to the container engine and prints its name: $LMT2_TEST_KAFKA_IMAGE if given, else
# the official image, else, where no image can be pulled, one built here from Debian packages and Maven's jars.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
official=apache/kafka:$kafka
local=lmt2-kafka:$kafka

has() { docker image inspect "$1" >/dev/null 2>&1; }

obtain() { has "$1" || { say "pulling $1" && timeout 300 docker pull -q "$1" >&2; }; }

build() {
    command -v debootstrap >/dev/null || apt_install debootstrap
    [ "$(id -u)" = 0 ] || die "building $local takes root"
    local libs
    libs=$(scripts/kafka_jars.sh)
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    say "building $local"
    debootstrap --variant=minbase --include=openjdk-17-jre-headless,ca-certificates-java \
        bookworm "$scratch" >"$cache/debootstrap.log" 2>&1 || die "debootstrap failed: see $cache/debootstrap.log"
    mkdir -p "$scratch/opt/kafka"
    cp -r "$libs" "$scratch/opt/kafka/libs"
    rm -rf "$scratch"/var/cache/apt/* "$scratch"/var/lib/apt/lists/*
    tar -C "$scratch" --exclude=./proc/* --exclude=./sys/* -c . | docker import - "$local" >/dev/null
}

if [ -n "${LMT2_TEST_KAFKA_IMAGE:-}" ]; then
    obtain "$LMT2_TEST_KAFKA_IMAGE" || die "no image $LMT2_TEST_KAFKA_IMAGE"
    printf '%s\n' "$LMT2_TEST_KAFKA_IMAGE"
elif ! has "$local" && obtain "$official"; then
    printf '%s\n' "$official"
else
    has "$local" || build
    printf '%s\n' "$local"
fi
