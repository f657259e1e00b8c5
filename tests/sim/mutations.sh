#!/usr/bin/env bash
# mutations.sh: builds each known bug (meson option `mutation`, docs/protocol.md) into the core and requires that the
# simulator finds it within 2,000 seeds; and that without one the same seeds pass. Prints mutation, seed and what was seen.
set -uo pipefail
cd "$(dirname "$0")/../.."
build=build-mutation
seeds=${MUTATION_SEEDS:-1-2000}
failed=0
names=(none "join before caught up" "lease counted from receipt" "no wait after a start" "same epoch after a restart"
    "a lost compare-and-swap treated as failed" "acknowledge before the backup" "accept an older epoch"
    "skip the cut" "answer from the backup without R5" "apply a proposal twice")

[ -f $build/build.ninja ] || CC=gcc meson setup $build >/dev/null || exit 1
for mutation in 0 1 2 3 4 5 6 7 8 9 10; do
    meson configure $build -Dmutation=$mutation && ninja -C $build tests/sim/nef_sim >/dev/null || exit 1
    said=$($build/tests/sim/nef_sim --seeds "$seeds" | head -n 1)
    case $said in
    "seed "*" failed"*) found=yes ;;
    *) found=no ;;
    esac
    if [ $mutation -eq 0 ]; then wanted=no; else wanted=yes; fi
    [ $found = $wanted ] && result=ok || { result=FAILED; failed=$((failed + 1)); }
    printf '%-7s %2d %-42s %s\n' $result $mutation "${names[$mutation]}" "$said"
done
[ $failed -eq 0 ]
