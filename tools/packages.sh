#!/usr/bin/env bash
# packages.sh GROUP... : install what packages/GROUP.txt names and this machine lacks.
# Costs one dpkg-query when nothing is missing, and never touches the network then. Without root it uses sudo, or says
# what to run.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v dpkg-query >/dev/null; then
    echo "packages.sh: this is not Debian; install what packages/{$*}.txt list, then run make with PACKAGES=skip" >&2
    exit 1
fi
wanted=()
for group in "$@"; do
    while read -r name _; do
        case $name in '' | '#'*) ;; *) wanted+=("$name") ;; esac
    done <"packages/$group.txt"
done
installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p' | sort -u)
mapfile -t missing < <(printf '%s\n' "${wanted[@]}" | sort -u | comm -23 - <(printf '%s\n' "$installed"))
[ ${#missing[@]} -eq 0 ] && exit 0

# A tool that is there by another way (a newer clang, a pip-installed meson) satisfies its package.
declare -A tool=([gcc]=gcc [g++]=g++ [meson]=meson [ninja-build]=ninja [pkg-config]=pkg-config
    [etcd-server]=etcd [etcd-client]=etcdctl [haproxy]=haproxy [curl]=curl [rclone]=rclone
    [awscli]=aws [npm]=npm [wrk]=wrk [clang]=clang [cppcheck]=cppcheck [spin]=spin)
still=()
for name in "${missing[@]}"; do
    if [ -n "${tool[$name]:-}" ] && command -v "${tool[$name]}" >/dev/null; then
        continue
    fi
    still+=("$name")
done
[ ${#still[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null; then
        as_root=(sudo)
    else
        echo "packages.sh: needed and not installed: ${still[*]}" >&2
        echo "packages.sh: as root run: apt-get update && apt-get install --no-install-recommends ${still[*]}" >&2
        exit 1
    fi
fi
echo "installing ${still[*]}"
# A fresh machine may be installing its own updates: wait for it. Its package index may be absent or name versions
# that the mirror no longer has, so it is refreshed; a mirror of somebody else's that doesn't answer isn't fatal.
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300
    -o Acquire::Retries=3)
"${apt[@]}" update || echo "packages.sh: the package index could not be refreshed; going on with what is there" >&2

# Debian starts etcd and haproxy as services when they are installed. A region brings its own, and the
# service would take etcd's ports: a policy that forbids starting holds for the time of the installation.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap '"${as_root[@]}" rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee $policy >/dev/null
    "${as_root[@]}" chmod 755 $policy
fi
"${apt[@]}" install -y --no-install-recommends "${still[@]}"
