#!/bin/sh
# A backup that reports how long it took and whether it succeeded.
#
#     BROKER_HOST=127.0.0.1 BROKER_PORT=1883 sh backup.sh
#
# Rows in JSON need no client library. See docs/mqtt.md and client/kaywatch/PROTOCOL.md.
set -u

started=$(date +%s)
if tar -cf /dev/null "$0"; then
    outcome=ok
else
    outcome=error
fi
seconds=$(($(date +%s) - started))

mosquitto_pub -q 1 \
    -h "${BROKER_HOST:-127.0.0.1}" -p "${BROKER_PORT:-1883}" \
    -t kaywatch/v1/backup/rows \
    -m "{\"service\": \"cron\", \"graph\": \"nightly\", \"node\": \"backup\",
        \"seconds\": $seconds, \"outcome\": \"$outcome\"}"
