#!/usr/bin/env bash
# Installs the peers of `make bench`: PyPI packages into .venv, daemons into .bench.
# Installs nothing system-wide. Never fails: the table shows which peers are missing.
set -u
cd "$(dirname "$0")/../.." || exit 0
mkdir -p .bench

if ! .venv/bin/python -c 'import datadog, statsd
import opentelemetry.exporter.otlp.proto.http, opentelemetry.sdk' 2>/dev/null; then
    echo "Installing the client libraries of peers into .venv ..." >&2
    .venv/bin/pip install --quiet --group bench || echo "could not install them" >&2
fi

if [ ! -d .bench/node_modules/statsd ] && command -v npm >/dev/null; then
    echo "Installing npm's statsd into .bench ..." >&2
    npm install --prefix .bench --silent --no-audit --no-fund --ignore-scripts \
        statsd@0.9.0 >/dev/null || echo "could not install it" >&2
fi

if [ ! -x .bench/collectd/usr/sbin/collectd ] && command -v apt-get >/dev/null; then
    echo "Unpacking Debian's collectd-core into .bench ..." >&2
    # Unpacked, not installed: this needs no root, and starts no service.
    (cd .bench && apt-get -qq download collectd-core libltdl7 2>/dev/null &&
        for package in collectd-core_*.deb libltdl7_*.deb; do
            dpkg -x "$package" collectd && rm "$package"
        done) || echo "could not get it (apt-get update may help)" >&2
fi
exit 0
