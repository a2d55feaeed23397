"""goref's tokens of a byte-level BPE against those of the library `tokenizers`, over text chosen to be awkward."""

import json
import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from conform.core.cases.text import hostile_texts
from conform.core.tokenizer.bytelevel import parse_byte_level
from conform.core.tokenizer.pre import PRE_TOKENIZERS
from conform.parity.goref.toolchain import GOREF_SOURCES

PRE = ["gpt-2", "llama-bpe", "smollm"]
TEXTS = hostile_texts("tokenizer")
CONTRACTIONS = "I'm we'Re it's IT'S 'tis y'all'd've don't '' 'ſ 'LL l'l"
CASES = {
    **TEXTS,
    "contractions": CONTRACTIONS,
    "digits": "1 12 123 1234 12345678 3.14 ٣٤٥ Ⅷ½² 1a2b",
    "blanks": " a  b   c\t\td \n e\r\n\r\nf\n\n  g\u00a0\u3000h \x85i\u2028 ",
    "new letters": "\ua7cb\U000105c0\U00010d50 \U00010d40\U00010d41 \U00011de0\U00011de1",
    "unreachable": "zq zqa.zq\x05zq",
    "added": "a<added>b <added><added> <|begin|> <add",
}


@pytest.fixture(scope="module", params=PRE)
def opened(request, make_tokenizer_json, micro, run_goref, tmp_path_factory):
    """The library's tokenizer and a function that asks goref, both without a piece for two bytes."""
    folder = tmp_path_factory.mktemp("tokens")
    data = make_tokenizer_json(512, request.param)
    vocab = data["model"]["vocab"]
    # No piece stands for the bytes 4 and 5 any more; no merge leads to the piece that takes the place of the second.
    vocab["<added>"], vocab["zq"] = vocab.pop("\u0104"), vocab.pop("\u0105")
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    data["added_tokens"].append({"id": vocab["<added>"], "content": "<added>", **flags})
    content = json.dumps(data)
    library = Tokenizer.from_str(content)
    library.encode_special_tokens = True
    vocabulary = parse_byte_level(content.encode(), Path("tokenizer.json"))
    file = micro.replace(layers=1, vocab=512).file()
    file.keys |= {
        "tokenizer.ggml.model": ("string", "gpt2"),
        "tokenizer.ggml.pre": ("string", vocabulary.pre),
        "tokenizer.ggml.tokens": ("strings", vocabulary.pieces),
        "tokenizer.ggml.token_type": ("i32[]", vocabulary.types),
        "tokenizer.ggml.merges": ("strings", vocabulary.merges),
        "tokenizer.ggml.add_bos_token": ("bool", False),
    }
    path = file.write(folder / "m.gguf")

    def run(text):
        (folder / "prompt").write_bytes(text.encode())
        ran = run_goref("tokenize", "--model", path, "--prompt-file", folder / "prompt")
        assert ran.code == 0, ran.err
        return json.loads(ran.out)

    return library, run


@pytest.mark.parametrize("case", CASES)
def test_tokens_are_those_of_the_library(opened, case):
    library, run = opened
    assert run(CASES[case]) == library.encode(CASES[case], add_special_tokens=False).ids


def test_a_piece_that_no_merge_leads_to_is_found_where_merges_are_ignored(opened):
    library, run = opened
    piece = library.token_to_id("zq")
    assert (run("zq") == [piece]) == json.loads(library.to_str())["model"]["ignore_merges"]


def test_tokens_of_a_long_random_text_are_those_of_the_library(opened):
    library, run = opened
    rng = random.Random(20261125)
    common = "thecan'sreSLlvm   \n\r\t.12é漢\u0301\u00a0\x04_🙂ſ"
    planes = [chr(code) for code in range(0x20, 0x30000) if not 0xD800 <= code < 0xE000]
    text = "".join(rng.choice(common if rng.random() < 0.9 else planes) for _ in range(60_000))
    assert run(text) == library.encode(text, add_special_tokens=False).ids


def test_it_knows_every_name_of_the_pre_tokenizers_that_it_runs(micro, run_goref, tmp_path):
    file = micro.replace(layers=1).file()
    runs = set()
    for name in (name for known in PRE_TOKENIZERS.values() for name in known.names):
        file.keys |= {"tokenizer.ggml.model": ("string", "gpt2"), "tokenizer.ggml.pre": ("string", name)}
        ran = run_goref("tokenize", "--model", file.write(tmp_path / "m.gguf"), "--prompt", "a")
        if f'tokenizer.ggml.pre = "{name}" is not supported' not in ran.err:
            runs.add(name)
    assert runs == {name for pre in PRE for name in PRE_TOKENIZERS[pre].names}


def test_another_pre_tokenizer_is_refused_by_name(micro, make_tokenizer_json, run_goref, tmp_path):
    file = micro.replace(layers=1).file()
    file.keys |= {"tokenizer.ggml.model": ("string", "gpt2"), "tokenizer.ggml.pre": ("string", "qwen2")}
    ran = run_goref("tokenize", "--model", file.write(tmp_path / "m.gguf"), "--prompt", "a")
    assert ran.code == 1
    assert 'tokenizer.ggml.pre = "qwen2" is not supported, expected one of gpt-2, llama-bpe, smollm' in ran.err


def test_the_committed_classes_are_what_the_generator_writes():
    import runpy

    main = runpy.run_path(str(GOREF_SOURCES / "gen_classes.py"))["main"]
    assert main(["--check"]) == 0
