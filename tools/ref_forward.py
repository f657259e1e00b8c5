#!/usr/bin/python3
"""Reference forward pass of Qwen2, Qwen2.5 and Qwen3 dense models in float64, on a GGUF file's dequantized weights.

    tools/ref_forward.py MODEL.gguf --tokens 1,2,3 [--tokens ...] [--greedy 8] [--all] [--out LOGITS.f64]
    tools/ref_forward.py MODEL.gguf --case cases.json --out LOGITS.f64
    tools/ref_forward.py MODEL.gguf --case cases.json --compare LOGITS.f32|.f64

What the engine computes differs from this by its own rounding only: of activations to 16 bits (quantized weights) or
to bf16 (BF16 weights), of keys and values to bf16, and of every float32 operation. Written for reading, not for speed.
"""
import argparse
import json
import os

import numpy as np

import gguf_format


class Model:
    def __init__(self, path):
        file = gguf_format.File(path)
        self.weights = {name: file.weights(name) for name in file.tensors}
        self.arch = file.keys["general.architecture"].decode()
        assert self.arch in ("qwen2", "qwen3"), self.arch

        def key(name, *default):
            return file.keys.get(self.arch + "." + name, *default)
        self.layers, self.heads, self.kv_heads = (key("block_count"), key("attention.head_count"),
                                                  key("attention.head_count_kv"))
        self.head_dim = key("attention.key_length", key("embedding_length") // self.heads)
        self.eps = key("attention.layer_norm_rms_epsilon")
        self.vocab = self.weights["token_embd.weight"].shape[0]
        self.frequencies, self.rope_gain = self._rope(key)

    def _rope(self, key):
        """Angle per position of each pair (i, i + head_dim/2), and the gain of cos and sin (YaRN)."""
        dims, base = self.head_dim, key("rope.freq_base", 10000.0)
        plain = base ** (-np.arange(0, dims, 2) / dims)
        scaling, factor = key("rope.scaling.type", b"none"), key("rope.scaling.factor", 1.0)
        if scaling == b"none" or factor == 0:
            return plain, 1.0
        if scaling == b"linear":
            return plain / factor, 1.0
        assert scaling == b"yarn", scaling
        context = key("rope.scaling.original_context_length", key("context_length"))

        def pair_of(turns):     # the pair that turns that often within the original context (Peng et al. 2023)
            return dims * np.log(context / (turns * 2 * np.pi)) / (2 * np.log(base))
        low = max(0.0, np.floor(pair_of(key("rope.scaling.yarn_beta_fast", 32.0))))
        high = min(dims - 1.0, np.ceil(pair_of(key("rope.scaling.yarn_beta_slow", 1.0))))
        keep = 1 - np.clip((np.arange(dims // 2) - low) / max(0.001, high - low), 0, 1)
        keep = keep * key("rope.scaling.yarn_ext_factor", 1.0)
        gain = (1 + 0.1 * np.log(factor)) * key("rope.scaling.yarn_attn_factor", 1.0)
        return plain / factor * (1 - keep) + plain * keep, gain

    def _norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * self.weights[name]

    def _turn(self, x):
        """(position, head, head_dim)"""
        half = self.head_dim // 2
        angle = np.arange(len(x))[:, None, None] * self.frequencies
        cos, sin = np.cos(angle) * self.rope_gain, np.sin(angle) * self.rope_gain
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, a * sin + b * cos], -1)

    def _attend(self, q, k, v):
        count, shared = len(q), self.heads // self.kv_heads
        k, v = np.repeat(k, shared, 1), np.repeat(v, shared, 1)
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(self.head_dim)
        scores = np.where(np.tril(np.ones((count, count), bool)), scores, -np.inf)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        return np.einsum("hij,jhd->ihd", p / p.sum(-1, keepdims=True), v).reshape(count, -1)

    def logits(self, tokens, all_positions=False):
        w = self.weights
        x = w["token_embd.weight"][tokens]
        for layer in range(self.layers):
            b = "blk.%d." % layer
            h = self._norm(x, b + "attn_norm.weight")
            q, k, v = ((h @ w[b + "attn_%s.weight" % part].T + w.get(b + "attn_%s.bias" % part, 0.0))
                       .reshape(len(tokens), -1, self.head_dim) for part in "qkv")
            if b + "attn_q_norm.weight" in w:
                q, k = self._norm(q, b + "attn_q_norm.weight"), self._norm(k, b + "attn_k_norm.weight")
            x = x + self._attend(self._turn(q), self._turn(k), v) @ w[b + "attn_output.weight"].T
            h = self._norm(x, b + "ffn_norm.weight")
            gate = h @ w[b + "ffn_gate.weight"].T
            x = x + (gate / (1 + np.exp(-gate)) * (h @ w[b + "ffn_up.weight"].T)) @ w[b + "ffn_down.weight"].T
        h = self._norm(x if all_positions else x[-1:], "output_norm.weight")
        return h @ w.get("output.weight", w["token_embd.weight"]).T


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tokens", action="append", default=[], metavar="1,2,3")
    parser.add_argument("--case", metavar="FILE", help='JSON with "cases": [{"prompt": [...]}, ...]')
    parser.add_argument("--greedy", type=int, default=0, metavar="N", help="then print the N likeliest continuations")
    parser.add_argument("--all", action="store_true", help="logits of every position, not only of the last")
    parser.add_argument("--out", metavar="FILE", help="raw little-endian float64, one row a case")
    parser.add_argument("--compare", metavar="FILE", help="rows of float32 (.f32) or float64 (.f64) to compare with")
    options = parser.parse_args()
    prompts = [[int(t) for t in text.split(",")] for text in options.tokens]
    if options.case:
        with open(options.case) as f:
            prompts += [c["prompt"] for c in json.load(f)["cases"]]
    if not prompts:
        parser.error("no --tokens and no --case")
    model = Model(options.model)
    rows = [model.logits(p, options.all) for p in prompts]
    given = None
    if options.compare:
        width = "<f8" if options.compare.endswith("64") else "<f4"
        given = np.fromfile(options.compare, width).reshape(-1, model.vocab)
        assert len(given) == sum(len(r) for r in rows), (len(given), options.compare)
    at = 0
    for prompt, row in zip(prompts, rows):
        last = row[-1]
        text = " ".join("%d:%.5f" % (t, last[t]) for t in np.argsort(-last)[:5])
        if given is not None:
            d = given[at:at + len(row)] - row
            text = "rms %.3g, largest %.3g; %s" % (np.sqrt((d * d).mean()), np.abs(d).max(), text)
        at += len(row)
        chain = list(prompt)
        for _ in range(options.greedy):
            chain.append(int(model.logits(chain)[-1].argmax()))
        print("%s: %d tokens; %s%s" % (os.path.basename(options.model), len(prompt), text,
                                       "; then " + " ".join(map(str, chain[len(prompt):])) if options.greedy else ""))
    if options.out:
        np.concatenate(rows).astype("<f8").tofile(options.out)


if __name__ == "__main__":
    main()
