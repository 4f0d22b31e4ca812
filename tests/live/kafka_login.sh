#!/usr/bin/env bash
# The whole demo against an Apache Kafka that asks for a login, in the clear and over TLS, and refuses a wrong password.
# Place: by hand and where java and maven are. From any folder: tests/live/kafka_login.sh [DIRECTORY OF BINARIES]
# TLS and SCRAM need binaries of `cargo build --release --workspace --bins --features service/tls`; with others only a login by
# PLAIN in the clear is tried, and that is said.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
binaries="$(cd "${1:-$root/target/release}" && pwd)"
dir="$(mktemp -d)"
broker=
finish() {
  [ -z "$broker" ] || kill "$broker" 2>/dev/null || true
  rm -rf "$dir"
}
trap finish EXIT

jars="${MEIT_KAFKA_JARS:-$root/target/kafka/jars}"
MEIT_KAFKA_JARS="$jars" "$root/deploy/kafka/kafka.sh" jars
keytool -genkeypair -keyalg RSA -keysize 2048 -validity 2 -alias broker -dname CN=broker -ext san=ip:127.0.0.1 \
  -storetype PKCS12 -keystore "$dir/broker.p12" -storepass changeit >/dev/null 2>&1
keytool -exportcert -rfc -alias broker -keystore "$dir/broker.p12" -storepass changeit >"$dir/ca.pem" 2>/dev/null

plain=19192 tls=19193 controller=19194
{
  grep -v '^listener.security.protocol.map\|^inter.broker.listener.name' "$root/deploy/kafka/server.properties"
  cat <<END
listeners=CLEAR://127.0.0.1:$plain,TLS://127.0.0.1:$tls,INNER://127.0.0.1:$((controller + 1)),CONTROLLER://127.0.0.1:$controller
advertised.listeners=CLEAR://127.0.0.1:$plain,TLS://127.0.0.1:$tls,INNER://127.0.0.1:$((controller + 1))
listener.security.protocol.map=CLEAR:SASL_PLAINTEXT,TLS:SASL_SSL,INNER:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=INNER
controller.quorum.voters=1@127.0.0.1:$controller
log.dirs=$dir/data
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
listener.name.clear.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_meit="hush";
listener.name.clear.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.tls.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_meit="hush";
listener.name.tls.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
ssl.keystore.location=$dir/broker.p12
ssl.keystore.password=changeit
ssl.keystore.type=PKCS12
END
} >"$dir/server.properties"
java=(java -Xmx512m -XX:+UseSerialGC "-Dlog4j2.configurationFile=$root/deploy/kafka/log4j2.properties" -cp "$jars/*")
id="$("${java[@]}" kafka.tools.StorageTool random-uuid)"
"${java[@]}" kafka.tools.StorageTool format --cluster-id "$id" --config "$dir/server.properties" \
  --add-scram 'SCRAM-SHA-512=[name=meit,password=hush]' >"$dir/log" 2>&1 || { cat "$dir/log"; exit 4; }
"${java[@]}" kafka.Kafka "$dir/server.properties" >>"$dir/log" 2>&1 </dev/null &
broker=$!
for _ in $(seq 600); do
  kill -0 "$broker" 2>/dev/null || { tail -n 20 "$dir/log"; exit 4; }
  (exec 3<>"/dev/tcp/127.0.0.1/$tls") 2>/dev/null && break
  sleep 0.1
done

# demo PORT PROTOCOL MECHANISM PASSWORD: two beds for a recording each; its exit status
demo() {
  MEIT__KAFKA__SECURITY_PROTOCOL="$2" MEIT__KAFKA__SASL_MECHANISM="$3" MEIT__KAFKA__SASL_USERNAME=meit \
    MEIT__KAFKA__SASL_PASSWORD="$4" MEIT__KAFKA__SSL_CA_FILE="$dir/ca.pem" MEIT__KAFKA__GROUP_PREFIX="meit-$RANDOM" \
    timeout 120 "$binaries/meit" demo --brokers "127.0.0.1:$1" --beds 2 --minutes 0.15 --json >"$dir/drafts" 2>"$dir/demo.log"
}
works() {
  demo "$@" || { tail -n 20 "$dir/demo.log"; echo "FAILED: $2 with $3"; exit 1; }
  [ "$(wc -l <"$dir/drafts")" -ge 2 ] || { echo "FAILED: $2 with $3 gave $(wc -l <"$dir/drafts") drafts"; exit 1; }
  echo "  $2 with $3: $(wc -l <"$dir/drafts") drafts"
}
refused() {
  if demo "$@"; then echo "FAILED: $2 with $3 and a wrong password was let in"; exit 1; fi
  echo "  $2 with $3 and a wrong password: refused"
}

works "$plain" sasl_plaintext PLAIN hush
refused "$plain" sasl_plaintext PLAIN wrong
if MEIT__KAFKA__SECURITY_PROTOCOL=ssl "$binaries/meit-agent" check-config >/dev/null 2>&1; then
  works "$plain" sasl_plaintext SCRAM-SHA-512 hush
  works "$tls" sasl_ssl SCRAM-SHA-512 hush
  works "$tls" sasl_ssl PLAIN hush
  refused "$tls" sasl_ssl SCRAM-SHA-512 wrong
else
  echo "  TLS and SCRAM not tried: these binaries are built without service/tls"
fi
echo ok
