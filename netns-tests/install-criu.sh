#!/usr/bin/env bash
# Puts a current CRIU into a directory of its own, with the libraries it was built for, and changes
# nothing else on the machine: neither libc nor the package data base. For benchmarks beside CRIU,
# and for tests of the image format; qmig itself needs no CRIU. With it a crun of the same release, because
# that of Debian 12 was built without CRIU.
#
#   install-criu.sh PREFIX [SUITE [LEAST]]   SUITE: a Debian release that has criu LEAST or newer (default
#                                            forky and 4.2: older ones cannot dump sockets on Linux 6.16)
set -euo pipefail

prefix=$(realpath -m "${1:?usage: install-criu.sh PREFIX [SUITE [LEAST]]}")
suite=${2:-forky}
least=${3:-4.2}
if [ -x "$prefix/sbin/criu" ] && [ -x "$prefix/sbin/crun" ]; then
	version=$("$prefix/sbin/criu" --version | sed -n 's/^Version: //p')
	if printf '%s\n%s\n' "$least" "$version" | sort --version-sort --check=quiet; then echo "CRIU $version"; exit 0; fi
	rm -rf "$prefix"/{sbin,lib}
fi

# The mirror and its key are the ones this machine already trusts.
sources=/etc/apt/sources.list.d/debian.sources
if [ ! -r "$sources" ]; then echo "no $sources: no CRIU beside the system" >&2; exit 0; fi
mirror=$(sed -n 's/^URIs:[[:space:]]*//p' "$sources" | head -1)
keyring=$(sed -n 's/^Signed-By:[[:space:]]*//p' "$sources" | head -1)
[ -n "$mirror" ] && [ -n "$keyring" ] || { echo "no Debian mirror with a key in $sources" >&2; exit 1; }

work=$(mktemp -d)
chmod 755 "$work"
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{state/lists/partial,cache/archives/partial,root,empty}
: >"$work/status" # nothing is installed, so apt fetches everything criu depends on
echo "deb [signed-by=$keyring] $mirror $suite main" >"$work/sources.list"
apt=(apt-get -qq
	-o Dir::State="$work/state" -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache"
	-o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts="$work/empty"
	-o Dir::Etc::Preferences="$work/empty/none" -o Dir::Etc::PreferencesParts="$work/empty"
	-o APT::Sandbox::User=root -o APT::Install-Recommends=false -o Debug::NoLocking=1)
"${apt[@]}" update
"${apt[@]}" -y --download-only install criu crun libcriu2 >/dev/null
for package in "$work"/cache/archives/*.deb; do dpkg-deb -x "$package" "$work/root"; done

libraries=$work/root/usr/lib/x86_64-linux-gnu
loader=$libraries/ld-linux-x86-64.so.2
mkdir -p "$prefix"/{sbin,lib}
cp -L "$loader" "$prefix/lib/"
programs=("$work/root/usr/sbin/criu" "$work/root/usr/bin/crun")
for needs in "${programs[@]}" "$libraries/libcriu.so.2"; do # crun opens the last by itself
	"$loader" --library-path "$libraries" --list "$needs" |
		awk '$2 == "=>" && $3 ~ /^\// && $3 !~ /ld-linux/ { print $3 }'
	echo "$libraries/libcriu.so.2"
done | sort --unique | while read -r library; do cp -L "$library" "$prefix/lib/"; done
for program in "${programs[@]}"; do
	name=${program##*/}
	cp "$program" "$prefix/lib/$name.bin"
	cat >"$prefix/sbin/$name" <<-WRAPPER
		#!/bin/sh
		exec $prefix/lib/ld-linux-x86-64.so.2 --argv0 $name --library-path $prefix/lib $prefix/lib/$name.bin "\$@"
	WRAPPER
	chmod 755 "$prefix/sbin/$name"
done
"$prefix/sbin/criu" --version | head -1
