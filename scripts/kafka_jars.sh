#!/usr/bin/env bash
# Brings a real Kafka broker into the cache: its jars, from Maven. Prints their folder.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

libs=$cache/kafka-$kafka/libs
command -v java >/dev/null || apt_install openjdk-17-jre-headless
if [ ! -d "$libs" ]; then
    command -v mvn >/dev/null || apt_install maven
    say "fetching Kafka $kafka's jars"
    scratch=$(mktemp -d "$cache/kafka.XXXX")
    trap 'rm -rf "$scratch"' EXIT
    cat >"$scratch/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>lmt2</groupId><artifactId>broker</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$kafka</version></dependency>
  </dependencies>
</project>
POM
    mvn -q -B -f "$scratch/pom.xml" -Dstyle.color=never -Dmaven.repo.local="$scratch/maven" \
        org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
        -DincludeScope=runtime -DoutputDirectory="$scratch/libs" >&2
    mkdir -p "$(dirname "$libs")"
    mv -T "$scratch/libs" "$libs" # whole or not at all
fi
printf '%s\n' "$libs"
