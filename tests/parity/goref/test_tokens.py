"""goref's tokens against SentencePiece's own, over text chosen to be awkward."""

import json
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conform.core.tokenizer.sentencepiece_model import with_dummy_prefix

AWKWARD = [
    "the cat sat on the mat",
    " leading and  double   spaces ",
    "tabs\tand\nnew lines\r\n",
    "Ünïcödé, 漢字, emoji 👩‍👩‍👧 and e\u0301",
    "<s></s><unk><0x0A>",
    "▁▁ already marked",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "the" * 300,
    "\u00a0\u3000\u200b\ufeff",
    "def f(x): return x**2  # 3.14e-10",
    "\x01\x7f",
    "-",
    "--prompt",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A BPE model as the contract's tokenizer recipe wants it, trained on this file."""
    folder = tmp_path_factory.mktemp("spm")
    text = Path(__file__).read_text(encoding="utf-8").replace("\n", " ") * 20 + " the cat sat on the mat " * 50
    (folder / "text").write_text("\n".join(text[i : i + 500] for i in range(0, len(text), 500)), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"),
        model_prefix=str(folder / "spm"),
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        pad_id=-1,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))


def kind_of(processor, token):
    if processor.is_unknown(token):
        return 2
    if processor.is_control(token):
        return 3
    return 6 if processor.is_byte(token) else 1


@pytest.fixture(scope="module")
def tokenize(trained, micro, run_goref, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    file = micro.replace(layers=1).file()
    ids = range(trained.vocab_size())
    file.keys |= {
        "tokenizer.ggml.tokens": ("strings", [trained.id_to_piece(i) for i in ids]),
        "tokenizer.ggml.scores": ("f32[]", [trained.get_score(i) for i in ids]),
        "tokenizer.ggml.token_type": ("i32[]", [kind_of(trained, i) for i in ids]),
        "tokenizer.ggml.pre": ("string", "default"),
        "tokenizer.ggml.add_space_prefix": ("bool", True),
        "tokenizer.ggml.add_eos_token": ("bool", False),
        "tokenizer.ggml.remove_extra_whitespaces": ("bool", False),
    }
    path = file.write(folder / "m.gguf")

    def run(text):
        (folder / "prompt").write_bytes(text.encode())
        ran = run_goref("tokenize", "--model", path, "--prompt-file", folder / "prompt")
        assert ran.code == 0, ran.err
        return json.loads(ran.out)

    run.path, run.file = path, file
    return run


@pytest.mark.parametrize("text", AWKWARD)
def test_tokens_are_those_of_sentencepiece(trained, tokenize, text):
    assert tokenize(text) == [1, *trained.encode(text)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.sampled_from("the catsmondry  ▁.é漢\n"), min_size=1, max_size=60))
def test_tokens_of_any_text_are_those_of_sentencepiece(trained, tokenize, text):
    assert tokenize(text) == [1, *trained.encode(text)]


def test_the_prompt_flag_gives_the_same_as_the_file(tokenize, run_goref):
    for text in ("the cat", "-dash", " "):
        assert json.loads(run_goref("tokenize", f"--model={tokenize.path}", f"--prompt={text}").out) == tokenize(text)


def test_an_empty_file_is_bos_alone(tokenize):
    assert tokenize("") == [1]


def test_invalid_utf8_becomes_replacement_characters(tokenize, trained, run_goref, tmp_path):
    (tmp_path / "prompt").write_bytes(b"a\xff\xfeb\xe2\x82")
    ran = run_goref("tokenize", "--model", tokenize.path, "--prompt-file", tmp_path / "prompt")
    assert json.loads(ran.out) == [1, *trained.encode(b"a\xff\xfeb\xe2\x82")]


def test_a_prompt_file_that_cannot_be_read(tokenize, run_goref, tmp_path):
    for path in (tmp_path / "none", tmp_path):
        ran = run_goref("tokenize", "--model", tokenize.path, "--prompt-file", path)
        assert (ran.code, ran.out) == (1, "")


@pytest.mark.parametrize("text", AWKWARD)
def test_without_a_dummy_prefix_tokens_are_those_of_sentencepiece(trained, tokenize, run_goref, tmp_path, text):
    content = with_dummy_prefix(trained.serialized_model_proto(), False)
    file = tokenize.file
    file.keys["tokenizer.ggml.add_space_prefix"] = ("bool", False)
    (tmp_path / "prompt").write_bytes(text.encode())
    ran = run_goref("tokenize", "--model", file.write(tmp_path / "m.gguf"), "--prompt-file", tmp_path / "prompt")
    assert json.loads(ran.out) == [1, *sentencepiece.SentencePieceProcessor(model_proto=content).encode(text)]
