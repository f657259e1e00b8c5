#!/usr/bin/env bash
# soak.sh: the long checks, each with its own time limit; hours, not minutes. `make soak` builds first.
# Last line as in run.sh: `N passed, N failed`, counted in checks.
set -uo pipefail
cd "$(dirname "$0")/.."
seeds=${SOAK_SEEDS:-100000}
out=build/soak-results
mkdir -p $out
passed=0
failed=0

# check NAME SECONDS COMMAND...: its output goes to a file, the tail of it is shown when it fails.
check() {
    local name=$1 limit=$2 started=$SECONDS status=0
    shift 2
    timeout -k 30 "$limit" "$@" >"$out/$name.txt" 2>&1 || status=$?
    if [ $status -eq 0 ] && [[ " $* " == *" pytest "* ]] && ! grep -q '[0-9] passed' "$out/$name.txt"; then
        echo "no test ran" >>"$out/$name.txt"
        status=1
    fi
    if [ $status -eq 0 ]; then
        passed=$((passed + 1))
        echo "ok      $name ($((SECONDS - started)) s)"
    else
        failed=$((failed + 1))
        echo "FAILED  $name (status $status, $((SECONDS - started)) s, $out/$name.txt)"
        tail -n 30 "$out/$name.txt"
    fi
}

export NEF_SOAK=1 ASAN_OPTIONS=detect_leaks=1:abort_on_error=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export TSAN_OPTIONS="halt_on_error=1 suppressions=$PWD/tests/tsan.supp"
check units-asan 600 meson test -C build-asan --no-rebuild --print-errorlogs
check units-clang 600 meson test -C build-clang --no-rebuild --print-errorlogs
check units-tsan 1200 meson test -C build-tsan --no-rebuild --print-errorlogs -t 5
rm -f $out/tsan.*
# A region of programs built with ThreadSanitizer, under clients and through the loss of zones. A race makes the zone
# exit with 66, which no test takes for a clean end. Core dumps are Nef's to forbid, which a test looks for.
check region-tsan 3600 env -u NEF_SOAK NEF="$PWD/build-tsan/nef" NEF_PATIENCE=4 \
    TSAN_OPTIONS="$TSAN_OPTIONS disable_coredump=0 log_path=$PWD/$out/tsan" \
    /usr/bin/python3 -m pytest -q -p no:cacheprovider tests/system/test_boto3.py tests/system/test_faults_requests.py \
    tests/system/test_faults_zone.py tests/system/test_gateway.py tests/system/test_gateway_loss.py \
    tests/system/test_responses.py tests/system/test_limits.py tests/system/test_model_served.py \
    tests/system/test_infer_api.py
# Of engines, which a zone starts again, and of zones that a test killed meanwhile: nobody sees how those ended.
check region-tsan-reports 60 sh -c "! grep -hs . $out/tsan.*"
check seeds 3600 build/tests/sim/nef_sim --seeds "1-$seeds"
check mutations 7200 tests/sim/mutations.sh
check spin 3600 tests/spin/run.sh
# A host that is lost for minutes under writes; make test takes seconds.
check host-lost 1200 env NEF_LOST_S=240 /usr/bin/python3 -m pytest -q -p no:cacheprovider \
    tests/system/test_faults_zone.py::test_host_lost_then_catch_up
# All system tests, with the cases and files that `make test` leaves out; random faults over a region for half an hour.
check system 14400 /usr/bin/python3 -m pytest -q -p no:cacheprovider tests/system
# The tests of Debian 12's boto3 once more, with the one that sends trailers.
check boto3-trailers 600 env PYTHONPATH="$PWD/build-boto3/usr/lib/python3/dist-packages" \
    /usr/bin/python3 -m pytest -q -p no:cacheprovider tests/system/test_boto3.py
# Every benchmark for a moment: a script that is run by hand breaks unseen.
check benchmarks 1200 bench/run.sh --quick
check cppcheck 1800 cppcheck --quiet --error-exitcode=1 --std=c11 --language=c -Isrc -i src/index/encrypted_env.cc \
    --enable=warning,portability --inline-suppr --suppress=missingIncludeSystem --suppress=unknownMacro \
    --suppressions-list=tests/cppcheck.supp src
check analyzer 3600 tools/analyzer.sh
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
