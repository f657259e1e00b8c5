#!/usr/bin/env bash
# build.sh [TARGET]: fetches llama.cpp's prebuilt libraries by the lock file (no script of the package runs) and builds
# the driver, build/bench/llama_driver by default.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=${1:-$here/../../build/bench/llama_driver}
libraries=$here/node_modules/@node-llama-cpp/linux-x64/bins/linux-x64
if [ ! "$libraries/libllama.v0.5.0.so" -nt "$here/package-lock.json" ]; then
    (cd "$here" && npm ci --ignore-scripts --no-audit --no-fund >/dev/null)
    touch "$libraries/libllama.v0.5.0.so"
fi
mkdir -p "$(dirname "$target")"
gcc -std=gnu11 -D_GNU_SOURCE -O2 -Wall -Wextra -Werror -DLLAMA_DIR="\"$libraries\"" -o "$target" "$here/driver.c" -ldl
