#!/usr/bin/env bash
# run.sh: the complete search of epochs.pml, then one search for each planted bug, which must be found.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
status=0

# search NAME ARGUMENTS...: builds and runs; prints spin's counts. Returns 0: nothing found, 1: found, 2: incomplete.
search() {
    local name=$1
    shift
    spin -a "$@" "$here/epochs.pml" >spin.txt 2>&1 || { cat spin.txt; return 2; }
    gcc -w -O2 -DSAFETY -DCOLLAPSE -DVECTORSZ=2048 -DMEMLIM=3900 -o pan pan.c || return 2
    ./pan -m1000000 >"$name.txt" 2>&1
    grep -E 'errors:|states, stored|actual memory|elapsed' "$name.txt" | tr '\n' ' ' && echo
    grep -q 'assertion violated' "$name.txt" && return 1
    grep -Eq 'max search depth too small|out of memory|Search not completed|aborting' "$name.txt" && return 2
    grep -q 'errors: 0' "$name.txt" || return 2
    return 0
}

echo "epochs.pml, no bug:"
search clean || { echo "FAILED: $(grep -E 'violated|depth|memory' clean.txt | head -n 3)"; status=1; }
for bug in 1 3 4 5 6 8; do
    echo "epochs.pml, bug $bug:"
    search bug$bug -DBUG=$bug
    [ $? -eq 1 ] && echo "found" || { echo "FAILED: bug $bug wasn't found"; status=1; }
done
exit $status
