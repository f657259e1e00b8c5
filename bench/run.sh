#!/usr/bin/env bash
# run.sh [--quick] [PART ...]: what this machine gets out of Nef, as a block of markdown for bench/RESULTS.md. Parts:
#   infer                             the inference engine beside llama.cpp: speed, start, memory, accuracy (infer.py);
#                                     8 minutes, and once 2.6 GB of models in build/bench/models
#   serve                             many streams at once beside llama.cpp: throughput, waits, memory (serve.py); 6 minutes
#   gateway                           the gateway over the bare engine, open streams, pauses over 200 kills (gateway.py)
#   speed memory catchup failover     a region: speed and recovery
# All by default. --quick runs each for a moment, to see that the benchmark works; its numbers mean nothing.
#
# A measurement needs a quiet machine, and the cut links need root (network namespaces).
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p build/bench
gcc -O2 -Wall -o build/bench/sync_loop bench/sync_loop.c
python=python3
$python -c 'import boto3, yaml, numpy' 2>/dev/null || python=/usr/bin/python3
exec $python bench/bench.py "$@"
