import copy
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conform.core.errors import InputError
from conform.core.tokenizer.bytelevel import BYTE_ALPHABET, parse_byte_level, piece_bytes
from conform.core.tokenizer.tokenizer import read_model, read_vocabulary

PATH = Path("there/tokenizer.json")
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


@pytest.fixture(scope="module")
def trained(make_tokenizer_json):
    return make_tokenizer_json(300)


@pytest.fixture
def data(trained):
    return copy.deepcopy(trained)


def read(data):
    return parse_byte_level(json.dumps(data).encode(), PATH)


def added(number, content, **flags):
    return FLAGS | {"id": number, "content": content, "special": False} | flags


def test_pieces_merges_and_kinds_are_those_of_the_file(data):
    vocabulary = read(data)
    assert dict(zip(vocabulary.pieces, range(300), strict=True)) == data["model"]["vocab"]
    assert vocabulary.merges == tuple(" ".join(merge) for merge in data["model"]["merges"])
    assert vocabulary.types == (3, 3, *[1] * 298)
    assert (vocabulary.model, vocabulary.pre, vocabulary.scores) == ("byte-level", "gpt-2", ())
    assert (vocabulary.bos_id, vocabulary.eos_id, vocabulary.unk_id, vocabulary.pad_id) == (-1, -1, -1, -1)
    assert (vocabulary.add_bos, vocabulary.add_eos) == (False, False)
    assert vocabulary.digest == hashlib.sha256(json.dumps(data).encode()).hexdigest()


def test_merges_may_be_written_as_texts(data):
    written = read(data).merges
    data["model"]["merges"] = [" ".join(merge) for merge in data["model"]["merges"]]
    assert read(data).merges == written


def test_bos_is_what_the_file_puts_before_a_text(data):
    parts = [{"SpecialToken": {"id": "<|begin|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    special = {"<|begin|>": {"id": "<|begin|>", "ids": [0], "tokens": ["<|begin|>"]}}
    data["post_processor"] = {"type": "TemplateProcessing", "single": parts, "pair": [], "special_tokens": special}
    vocabulary = read(data)
    assert (vocabulary.bos_id, vocabulary.add_bos, vocabulary.eos_id, vocabulary.add_eos) == (0, True, -1, False)


def test_added_tokens_are_control_or_user_defined_and_gaps_are_filled(data):
    data["added_tokens"] += [added(303, "<new>"), added(301, "<there>", special=True, lstrip=True)]
    vocabulary = read(data)
    assert vocabulary.pieces[300:] == ("[PAD300]", "<there>", "[PAD302]", "<new>")
    assert vocabulary.types[300:] == (5, 3, 5, 4)


def test_it_is_known_by_its_content_whatever_it_is_called(data, tmp_path):
    (tmp_path / "tokenizer.model").write_text("\n" + json.dumps(data))
    assert read_vocabulary(tmp_path / "tokenizer.model").model == "byte-level"


def _set(*path, value):
    def change(data):
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return change


def _add(token):
    return lambda data: data["added_tokens"].append(token)


def _unknown_for_lost_bytes(data):
    data["model"]["unk_token"] = "<|end|>"
    data["model"]["vocab"]["!?"] = data["model"]["vocab"].pop("!")


NORMALIZER = {"type": "NFC"}
REFUSED = {
    "another model": (_set("model", "type", value="Unigram"), "its model is Unigram"),
    "byte pieces": (_set("model", "byte_fallback", value=True), "as SentencePiece does; conform reads that from"),
    "dropout": (_set("model", "dropout", value=0.1), r"dropout = 0\.1, so that its ids are random"),
    "prefix": (_set("model", "continuing_subword_prefix", value="##"), "continuing_subword_prefix = '##'"),
    "suffix": (_set("model", "end_of_word_suffix", value="</w>"), "end_of_word_suffix"),
    "unknown bytes": (_unknown_for_lost_bytes, "some bytes have no piece"),
    "normalizer": (_set("normalizer", value=NORMALIZER), r"it has a normalizer \(NFC\)"),
    "no decoder": (_set("decoder", value=None), "its decoder is None, expected ByteLevel"),
    "another decoder": (_set("decoder", value={"type": "Fuse"}), "its decoder is Fuse"),
    "processor": (_set("post_processor", value={"type": "BertProcessing"}), "its post_processor is BertProcessing"),
    "pre-tokenizer": (_set("pre_tokenizer", value={"type": "Whitespace"}), r"its pre_tokenizer \(Whitespace\)"),
    "no pre-tokenizer": (_set("pre_tokenizer", value=None), "its pre_tokenizer"),
    "ignored merges": (_set("model", "ignore_merges", value=True), "with ignore_merges = true does not cut"),
    "stripped": (_add(added(300, "<x>", lstrip=True)), "the added token '<x>' has lstrip = true"),
    "two rounds": (
        lambda data: data["added_tokens"].extend([added(300, "<x>"), added(301, "<y>", normalized=True)]),
        "looks for them in two rounds",
    ),
    "two ids": (_add(added(300, "<|begin|>")), r"the added token '<\|begin\|>' has the ids 0 and 300"),
    "one id twice": (_add(added(5, "<x>")), "have the id 5"),
    "negative id": (_add(added(-1, "<x>")), "has the id -1, expected 0 to"),
    "huge id": (_add(added(1 << 40, "<x>")), "has the id 1099511627776"),
    "empty token": (_add(added(300, "")), r"piece 300 \(''\)"),
    "no bytes": (_set("model", "vocab", "漢", value=300), "not written in the alphabet of bytes"),
    "foreign merge": (_set("model", "merges", value=[["zz", "q"]]), r"merge 0 \('zz q'\) does not join"),
    "merge of one": (_set("model", "merges", value=["a"]), "does not join"),
    "no vocabulary": (_set("model", "vocab", value={}), "does not join|holds no pieces"),
    "unknown key": (_set("model", "surprise", value=1), r"unknown key model\.surprise"),
    "unknown section": (_set("surprise", value=1), "unknown key surprise"),
    "merges of numbers": (_set("model", "merges", value=[1]), r"model\.merges\[0\]"),
    "ids of text": (_set("model", "vocab", value={"a": "0"}), r"model\.vocab\.a"),
    "no model": (lambda data: data.pop("model"), "missing model"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_file_can_express_is_refused_by_name(data, case):
    change, reason = REFUSED[case]
    change(data)
    with pytest.raises(InputError, match=r"there/tokenizer\.json: .*" + f"(?:{reason})") as refused:
        read(data)
    assert len(str(refused.value)) < 500


def test_a_merge_may_occur_only_once(data):
    data["model"]["merges"].append(data["model"]["merges"][0])
    with pytest.raises(InputError, match="or occurs twice"):
        read(data)


def test_settings_that_change_no_prompt_are_accepted(data):
    plain = read(data)
    data["truncation"] = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    data["normalizer"] = {"type": "Sequence", "normalizers": []}
    data["model"] |= {"continuing_subword_prefix": "", "unk_token": "<|end|>"}
    settled = read(data)
    assert (settled.pieces, settled.merges, settled.unk_id) == (plain.pieces, plain.merges, 1)


def test_the_alphabet_is_that_of_the_library():
    from tokenizers.pre_tokenizers import ByteLevel

    assert set(BYTE_ALPHABET) == set(ByteLevel.alphabet())
    assert sorted(BYTE_ALPHABET.values()) == list(range(256))
    (piece, _) = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str("a\x00\x7f é漢\xad")[0]
    assert piece_bytes(piece) == "a\x00\x7f é漢\xad".encode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PLACES = [
    *(("model", key) for key in ("type", "vocab", "merges", "dropout", "unk_token", "ignore_merges", "byte_fallback")),
    *((key,) for key in ("model", "added_tokens", "normalizer", "post_processor", "decoder", "version", "truncation")),
]


@given(place=st.sampled_from(PLACES), value=JSON)
def test_any_value_in_any_place_is_read_or_refused_with_an_input_error(trained, place, value):
    data = copy.deepcopy(trained)
    _set(*place, value=value)(data)
    try:
        vocabulary = read(data)
    except InputError:
        return
    assert len(vocabulary.pieces) == len(vocabulary.types)


@pytest.fixture
def beside(data, tmp_path):
    """Write the tokenizer.json, with BOS before every text if wanted, and settings beside it; its path."""

    def write(bos, **settings):
        if bos:
            parts = [{"SpecialToken": {"id": "<|begin|>"}}, {"Sequence": {"id": "A"}}]
            data["post_processor"] = {
                "type": "TemplateProcessing",
                "single": parts,
                "special_tokens": {"<|begin|>": {"ids": [0]}},
            }
        (tmp_path / "tokenizer.json").write_text(json.dumps(data))
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        return tmp_path / "tokenizer.json"

    return write


@pytest.mark.parametrize(
    ("bos", "settings"),
    [
        (True, {}),
        (True, {"bos_token": "<|begin|>"}),
        (True, {"add_bos_token": True}),
        (False, {"bos_token": "<|end|>"}),
        (False, {"add_bos_token": False, "add_eos_token": False}),
    ],
)
def test_settings_that_agree_with_the_file_are_taken(beside, bos, settings):
    model, _ = read_model(beside(bos, **settings))
    assert model.add_bos is bos


@pytest.mark.parametrize(
    ("bos", "settings", "reason"),
    [
        (True, {"add_bos_token": False}, "add_bos"),
        (False, {"add_bos_token": True}, "add_bos"),
        (False, {"add_eos_token": True}, "add_eos"),
        (
            True,
            {"bos_token": "<|end|>"},
            r"says bos = '<\|begin\|>', but tokenizer_config\.json beside it says '<\|end\|>'",
        ),
    ],
)
def test_settings_that_contradict_the_file_are_refused(beside, bos, settings, reason):
    with pytest.raises(InputError, match=reason):
        read_model(beside(bos, **settings))
