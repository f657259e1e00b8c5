#!/usr/bin/env bash
# fuzz.sh SECONDS: each libFuzzer target of build-fuzz/ for that long, on its corpus in tests/fuzz/corpus/TARGET.
# What a target finds stays in build-fuzz/found/ and is shown as the command that repeats it.
set -uo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
found=build-fuzz/found
mkdir -p $found
passed=0
failed=0
shopt -s nullglob
for target in build-fuzz/tests/fuzz/*_fuzz; do
    name=$(basename "$target" _fuzz)
    work=build-fuzz/corpus/$name
    mkdir -p "$work"
    kept=(tests/fuzz/corpus/"$name")
    [ -d "${kept[0]}" ] || kept=()
    if "$target" -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 -print_final_stats=1 \
        -artifact_prefix="$found/$name-" "$work" "${kept[@]}" >"$found/$name.txt" 2>&1; then
        passed=$((passed + 1))
        echo "ok      $name $(sed -n 's/^stat::number_of_executed_units: */runs /p' "$found/$name.txt")"
    else
        failed=$((failed + 1))
        echo "FAILED  $name: repeat with $target $(ls -t "$found/$name"-* 2>/dev/null | head -n 1)"
        tail -n 20 "$found/$name.txt"
    fi
done
if [ $((passed + failed)) -eq 0 ]; then
    echo "fuzz.sh: build-fuzz/tests/fuzz has no target"
    failed=1
fi
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
