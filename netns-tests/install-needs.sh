#!/usr/bin/env bash
# Installs the Debian packages that the tests move around: real programs, a C compiler for the
# subjects, iproute2 for the hosts; and, beside the system, a current CRIU that the image format is
# tested against, and one whose page server speaks as all up to 4.1 did. Does nothing where everything is there already.
set -euo pipefail

needs=(
	ip:iproute2 cc:gcc redis-server:redis-server redis-cli:redis-tools nginx:nginx-light
	sqlite3:sqlite3 python3:python3 java:default-jdk-headless script:bsdutils tmux:tmux
	openssl:openssl setpriv:util-linux psql:postgresql node:nodejs runc:runc busybox:busybox-static etcd:etcd-server podman:podman conmon:conmon iptables:iptables
	sshd:openssh-server ssh:openssh-client
)
missing=()
for need in "${needs[@]}"; do
	PATH="$PATH:/usr/sbin:/sbin" command -v "${need%%:*}" >/dev/null || missing+=("${need##*:}")
done
# A browser with windows does as well.
command -v chromium >/dev/null || command -v chromium-headless-shell >/dev/null || missing+=(chromium-headless-shell)
here=$(dirname "$0")
criu() {
	"$@" "$here/install-criu.sh" /opt/qmig-criu
	"$@" "$here/install-criu.sh" /opt/qmig-criu-4.1 trixie 4.1
}
if [ ${#missing[@]} -eq 0 ]; then criu env; exit 0; fi

if ! command -v apt-get >/dev/null; then
	echo "not a Debian machine: please install ${missing[*]} yourself" >&2
	exit 0
fi
as_root=()
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || { echo "needs root to install ${missing[*]}" >&2; exit 1; }
	as_root=(sudo)
fi
echo "installing ${missing[*]}"
# The packages' own services must not start: the tests start the programs themselves.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee $policy >/dev/null
	"${as_root[@]}" chmod 755 $policy
	trap '"${as_root[@]}" rm -f $policy' EXIT
fi
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq update
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install \
	"${missing[@]}" >/dev/null
criu "${as_root[@]}"
