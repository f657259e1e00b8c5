#!/usr/bin/env bash
# boto3.sh DIR: unpack the boto3 that tests/system/boto3.lock names into DIR, for tests that set PYTHONPATH to
# DIR/usr/lib/python3/dist-packages. Nothing is installed and the machine's apt is left as it is: Debian 13's index
# and the packages are fetched by an apt of DIR's own, from the mirror that this machine uses, and checked against
# Debian's signature and then against the lock file. DIR/.unpacked is made last.
set -euo pipefail
cd "$(dirname "$0")/.."
lock=tests/system/boto3.lock
suite=trixie
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
target=${1:?usage: boto3.sh DIR}

say() { echo "boto3.sh: $*" >&2; }

by_hand() {
    say "system tests need the boto3 of $lock; where Debian can't be reached, put it there by hand:"
    say "  dpkg -x FILE.deb $target   for each package of the list, then touch $target/.unpacked"
    exit 1
}

if ! command -v apt-get >/dev/null || [ ! -e $keyring ]; then
    say "no apt-get with Debian's keyring ($keyring) on this machine"
    by_hand
fi
names=()
wanted=()
sums=()
while read -r name version sum; do
    case $name in '' | '#'*) continue ;; esac
    names+=("$name")
    wanted+=("$name=$version")
    sums+=("$sum")
done <$lock

# The mirror this machine gets Debian's releases from; security and updates come under other names, with a dash.
mirror=$(apt-get indextargets --format '$(REPO_URI) $(ORIGIN) $(RELEASE)' 'Created-By: Packages' 2>/dev/null |
    awk '$2 == "Debian" && $3 !~ /-/ { print $1; exit }')
mirror=${mirror:-http://deb.debian.org/debian}

rm -rf "$target"
mkdir -p "$target"
target=$(cd "$target" && pwd)
work=$target/apt
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
echo "deb [signed-by=$keyring] $mirror $suite main" >"$work/sources.list"
options=(-q -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State="$work"
    -o Dir::State::Lists="$work/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$work/cache"
    -o Acquire::Languages=none -o Acquire::Retries=3 -o APT::Sandbox::User=)
if ! apt-get "${options[@]}" update >"$work/log" 2>&1; then
    cat "$work/log" >&2
    say "Debian's index of $suite could not be fetched from $mirror"
    by_hand
fi
if ! (cd "$work" && apt-get "${options[@]}" download "${wanted[@]}") >>"$work/log" 2>&1; then
    tail -n 5 "$work/log" >&2
    say "$suite at $mirror doesn't give ${wanted[*]}; it has now:"
    apt-cache "${options[@]}" show --no-all-versions "${names[@]}" 2>/dev/null |
        sed -n 's/^\(Package\|Version\|SHA256\): /  &/p' >&2
    say "if that is newer, write it into $lock and run the tests with it"
    by_hand
fi
for i in "${!names[@]}"; do
    deb=("$work/${names[$i]}"_*.deb)
    if [ ${#deb[@]} -ne 1 ] || ! echo "${sums[$i]}  ${deb[0]}" | sha256sum --check --status; then
        say "${deb[*]} is not what $lock names"
        exit 1
    fi
    dpkg -x "${deb[0]}" "$target"
done
rm -rf "$work"
touch "$target/.unpacked"
echo "unpacked ${wanted[*]}"
