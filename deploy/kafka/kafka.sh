#!/usr/bin/env bash
# Apache Kafka on the loopback, without Docker, one node a call: `kafka.sh start [PORT]`, `kafka.sh stop`, `kafka.sh status`.
# Needs java 17 or newer and maven (Debian: apt-get install openjdk-17-jre-headless maven). Jars, data, log and process id
# lie in MEIT_KAFKA_DIR (target/kafka); the first start fetches 45 MB of jars. PORT is 9092 by default; the controller
# takes the port after it. `start` keeps the data of earlier starts; `stop` and removing the folder's data/ forgets them.
# A cluster: each node has a folder and is started with the ports of all, the place of its own among them (from 1), and
# MEIT_KAFKA_CLUSTER, 22 characters that all share: `MEIT_KAFKA_DIR=DIR kafka.sh start 9092,9192,9292 2`. It listens once a majority runs,
# and stops in order while one does.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
dir="${MEIT_KAFKA_DIR:-$here/../../target/kafka}"
jars="${MEIT_KAFKA_JARS:-$dir/jars}"
heap="${MEIT_KAFKA_HEAP:-512m}"

usage() {
  echo "usage: $0 jars | start [PORT[,PORT...] [NODE]] | stop | status" >&2
  exit 2
}

running() {
  [[ -f "$dir/pid" ]] && kill -0 "$(<"$dir/pid")" 2>/dev/null
}

# Copies the jars once; the mark says that the copy was complete and which pom it was of.
fetch() {
  cmp -s "$here/pom.xml" "$jars/pom.xml" && return
  for tool in java mvn; do
    command -v "$tool" >/dev/null || { echo "$tool is missing (Debian: apt-get install openjdk-17-jre-headless maven)" >&2; exit 3; }
  done
  rm -rf "$jars"
  mkdir -p "$jars"
  mvn --batch-mode --quiet --file "$here/pom.xml" dependency:copy-dependencies -DoutputDirectory="$(cd "$jars" && pwd)"
  cp "$here/pom.xml" "$jars/pom.xml"
}

start() {
  local ports node="$2"
  IFS=, read -ra ports <<<"$1"
  local port="${ports[$((node - 1))]}" voters=() of
  for of in "${!ports[@]}"; do
    voters+=("$((of + 1))@127.0.0.1:$((ports[of] + 1))")
  done
  if running; then
    echo "already running, process $(<"$dir/pid"), $(<"$dir/brokers")"
    return
  fi
  fetch
  mkdir -p "$dir"
  dir="$(cd "$dir" && pwd)"
  {
    cat "$here/server.properties"
    echo "listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))"
    echo "advertised.listeners=PLAINTEXT://127.0.0.1:$port"
    echo "node.id=$node"
    echo "controller.quorum.voters=$(IFS=,; echo "${voters[*]}")"
    echo "log.dirs=$dir/data"
    if ((${#ports[@]} > 1)); then
      cat "$here/cluster.properties"
    fi
  } >"$dir/server.properties"
  local java=(java "-Xmx$heap" -XX:+UseSerialGC "-Dlog4j2.configurationFile=$here/log4j2.properties" -cp "$jars/*")
  if [[ ! -f "$dir/data/meta.properties" ]]; then
    local id
    id="${MEIT_KAFKA_CLUSTER:-$("${java[@]}" kafka.tools.StorageTool random-uuid)}"
    "${java[@]}" kafka.tools.StorageTool format --cluster-id "$id" --config "$dir/server.properties" >"$dir/log" 2>&1 ||
      { cat "$dir/log" >&2; exit 4; }
  fi
  setsid "${java[@]}" kafka.Kafka "$dir/server.properties" >>"$dir/log" 2>&1 </dev/null &
  echo $! >"$dir/pid"
  echo "127.0.0.1:$port" >"$dir/brokers"
  for _ in $(seq 600); do
    running || { tail -n 20 "$dir/log" >&2; echo "the broker ended at its start, log: $dir/log" >&2; exit 4; }
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      echo "Kafka at 127.0.0.1:$port, process $(<"$dir/pid"), log $dir/log"
      return
    fi
    sleep 0.1
  done
  echo "the broker does not listen on 127.0.0.1:$port after 60 s, log: $dir/log" >&2
  exit 4
}

stop() {
  running || { echo "not running"; return; }
  local pid
  pid="$(<"$dir/pid")"
  kill "$pid"
  for _ in $(seq 300); do
    running || { rm -f "$dir/pid"; echo "stopped"; return; }
    sleep 0.1
  done
  echo "process $pid does not stop within 30 s" >&2
  exit 4
}

case "${1:-}" in
  jars) fetch ;;
  start) start "${2:-9092}" "${3:-1}" ;;
  stop) stop ;;
  status) if running; then echo "running, process $(<"$dir/pid"), $(<"$dir/brokers")"; else echo "not running"; exit 1; fi ;;
  *) usage ;;
esac
