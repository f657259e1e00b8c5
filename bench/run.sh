#!/usr/bin/env bash
# run.sh [--quick] [PART ...]: speed and recovery of a region on this machine, as a block of markdown for
# bench/RESULTS.md. Parts: speed memory catchup failover; all by default. --quick runs each for a moment, to see that
# the benchmark works; its numbers mean nothing.
#
# A measurement needs a quiet machine, and the cut links need root (network namespaces).
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p build/bench
gcc -O2 -Wall -o build/bench/sync_loop bench/sync_loop.c
python=python3
$python -c 'import boto3, yaml' 2>/dev/null || python=/usr/bin/python3
exec $python bench/bench.py "$@"
