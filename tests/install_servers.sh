#!/usr/bin/env bash
# Installs the Debian packages of the real servers that tests run against, where this
# user may. Never fails: tests report missing servers, and fail with CI=true.
set -u
# Where Debian keeps servers: the PATH of a user who is not root lacks them.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
missing=()
command -v promtool >/dev/null && command -v prometheus >/dev/null || missing+=(prometheus)
command -v prometheus-alertmanager >/dev/null && command -v amtool >/dev/null || missing+=(prometheus-alertmanager)
command -v victoria-metrics >/dev/null || missing+=(victoria-metrics)
command -v mosquitto >/dev/null && command -v mosquitto_passwd >/dev/null || missing+=(mosquitto)
command -v redis-server >/dev/null || missing+=(redis-server)
command -v mosquitto_pub >/dev/null || missing+=(mosquitto-clients)
# A systemd of their own, in a container.
command -v systemd-nspawn >/dev/null || missing+=(systemd-container)
[ -e /sbin/init ] && command -v systemctl >/dev/null || missing+=(systemd-sysv)
command -v dbus-daemon >/dev/null || missing+=(dbus)
command -v ip >/dev/null || missing+=(iproute2)
# Its tabs take a third of the time of chromium's, which have windows.
command -v chromium-headless-shell >/dev/null || missing+=(chromium-headless-shell)
command -v curl >/dev/null || missing+=(curl)
command -v openssl >/dev/null || missing+=(openssl)
[ "${#missing[@]}" -gt 0 ] || exit 0
if ! command -v apt-get >/dev/null; then
    echo "not installed, and there is no apt-get: ${missing[*]}"
    exit 0
fi
as_root=()
if [ "$(id -u)" != 0 ]; then
    if ! sudo -n true 2>/dev/null; then
        echo "not installed, and this user is not root and has no sudo: ${missing[*]}"
        exit 0
    fi
    as_root=(sudo -n)
fi
echo "Installing ${missing[*]} ..."
export DEBIAN_FRONTEND=noninteractive
apt() { "${as_root[@]}" apt-get -qq -o DPkg::Lock::Timeout=300 "$@" >/dev/null; }
# Debian starts a service when it installs one, unless policy-rc.d forbids it; the tests
# start their own, on ports of their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod +x "$policy"
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
fi
install() { apt install -y --no-install-recommends "$@"; }
# Where there is no such package, chromium has to do.
apt update && { install "${missing[@]}" ||
    install "${missing[@]/%chromium-headless-shell/chromium}"; } ||
    echo "could not install: ${missing[*]}"
exit 0
