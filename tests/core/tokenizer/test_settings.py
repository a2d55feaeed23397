import contextlib
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conform.core.errors import ConformError, InputError
from conform.core.tokenizer.settings import TokenizerSettings, read_settings, tokenizer_digest
from conform.core.tokenizer.token import AddedToken

LLAMA_2 = {
    "tokenizer_config.json": {
        "add_bos_token": True,
        "add_eos_token": False,
        "legacy": False,
        "bos_token": {"__type": "AddedToken", "content": "<s>", "lstrip": False, "normalized": True},
        "eos_token": "</s>",
        "unk_token": {"content": "<unk>"},
        "pad_token": None,
        "model_max_length": 1000000000000000019884624838656,
        "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizer",
    },
    "special_tokens_map.json": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": {"content": "<unk>"}},
    "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2, "temperature": 0.9},
    "tokenizer.json": {
        "added_tokens": [{"id": 0, "content": "<unk>", "special": True}, {"id": 1, "content": "<s>", "special": True}],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        },
        "model": {"type": "BPE", "vocab": {"<unk>": 0, "<s>": 1}, "merges": []},
    },
}


@pytest.fixture
def settings(tmp_path):
    """Write files by name, JSON or text, and read the settings of the folder."""

    def read(files, **options):
        for name, content in files.items():
            (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return read_settings(tmp_path, **options)

    return read


def metaspace(**options):
    return {"tokenizer.json": {"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", **options}}}


def template(*items):
    return {"tokenizer.json": {"post_processor": {"type": "TemplateProcessing", "single": list(items)}}}


def special(text):
    return {"SpecialToken": {"id": text, "type_id": 0}}


SEQUENCE = {"Sequence": {"id": "A", "type_id": 0}}


def test_without_files_nothing_is_said(settings):
    assert settings({}) == TokenizerSettings()


def test_files_that_agree_are_one_statement(settings):
    found = settings(LLAMA_2)
    assert (found.add_bos, found.add_eos, found.add_prefix_space) == (True, False, True)
    assert (found.bos, found.eos, found.unk, found.pad) == ("<s>", "</s>", "<unk>", None)
    assert found.stop_ids == (2,)
    assert found.added == (AddedToken(0, "<unk>", True), AddedToken(1, "<s>", True))
    assert found.pieces == {"<unk>": 0, "<s>": 1}
    assert found.origins["add_bos"] == "tokenizer_config.json"
    assert found.origins["pieces"] == "tokenizer.json"


def test_the_pipeline_is_left_to_a_tokenizer_that_it_holds(settings):
    assert settings(LLAMA_2, with_pipeline=False).pieces == {}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tokenizer_config.json", {"add_bos_token": False}),
        ("tokenizer_config.json", {"add_eos_token": True}),
        ("tokenizer_config.json", {"add_prefix_space": False}),
        ("special_tokens_map.json", {"eos_token": "<|end|>"}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"1": {"content": "<bos>", "special": True}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"1": {"content": "<s>", "special": False}}}),
        ("added_tokens.json", {"<extra>": 1}),
    ],
)
def test_files_that_contradict_each_other_are_refused(settings, name, change):
    changed = {**LLAMA_2, name: {**LLAMA_2.get(name, {}), **change}}
    with pytest.raises(ConformError, match=r"says .* but .* beside it says .*; correct the one that is wrong"):
        settings(changed)


def test_added_tokens_are_special_where_another_file_says_so(settings):
    found = settings(
        {
            "added_tokens.json": {"<|im_start|>": 7, "<tool>": 6, "<pad>": 8},
            "special_tokens_map.json": {"additional_special_tokens": ["<|im_start|>"], "pad_token": "<pad>"},
        }
    )
    assert found.added == (
        AddedToken(6, "<tool>", False),
        AddedToken(7, "<|im_start|>", True),
        AddedToken(8, "<pad>", True),
    )


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (metaspace(prepend_scheme="first"), True),
        (metaspace(prepend_scheme="always"), True),
        (metaspace(prepend_scheme="never"), False),
        (metaspace(add_prefix_space=False), False),
        (metaspace(), True),
        ({"tokenizer.json": {"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}}}, False),
        ({"tokenizer.json": {"normalizer": None}}, None),
        ({"tokenizer_config.json": {"add_prefix_space": False}}, False),
        ({"tokenizer_config.json": {"add_prefix_space": None}}, None),
    ],
)
def test_the_dummy_prefix_is_found_wherever_it_is_said(settings, files, expected):
    assert settings(files).add_prefix_space is expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (template(special("<s>"), SEQUENCE), (True, False, "<s>", None)),
        (template(SEQUENCE, special("</s>")), (False, True, None, "</s>")),
        (template(SEQUENCE), (False, False, None, None)),
        ({"tokenizer.json": {"post_processor": None}}, (None, None, None, None)),
    ],
)
def test_bos_and_eos_are_read_from_the_template(settings, files, expected):
    found = settings(files)
    assert (found.add_bos, found.add_eos, found.bos, found.eos) == expected


@pytest.mark.parametrize(
    ("config", "jinja", "expected"),
    [
        ({"chat_template": "{{ x }}"}, None, "{{ x }}"),
        ({}, "{{ y }}", "{{ y }}"),
        ({"chat_template": "{{ x }}"}, "{{ x }}", "{{ x }}"),
        ({"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]}, None, "d"),
    ],
)
def test_the_chat_template_stands_in_either_place(settings, config, jinja, expected):
    files = {"tokenizer_config.json": config} | ({} if jinja is None else {"chat_template.jinja": jinja})
    assert settings(files).chat_template == expected


def test_a_second_chat_template_is_said_to_be_left_out(settings):
    templates = [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]
    assert settings({"tokenizer_config.json": {"chat_template": templates}}).left_out == (
        ("tokenizer_config.json", "a chat template 'tool_use'"),
    )


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer_config.json": {"add_bos_token": "yes"}}, "add_bos_token = 'yes': expected a value of type bool"),
        ({"tokenizer_config.json": {"bos_token": 5}}, "bos_token"),
        ({"tokenizer_config.json": {"bos_token": {"content": ""}}}, "expected the text of a token"),
        ({"tokenizer_config.json": {"added_tokens_decoder": {"x": {"content": "a"}}}}, "expected the id of a token"),
        ({"tokenizer_config.json": {"chat_template": 5}}, "expected a text, or a list of named ones"),
        ({"tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["a.B", None]}}}, "code of its own"),
        ({"tokenizer_config.json": {"do_lower_case": True}}, "text in lower case"),
        ({"tokenizer_config.json": {"sp_model_kwargs": {"enable_sampling": True}}}, "options for SentencePiece"),
        (
            {"tokenizer_config.json": {"added_tokens_decoder": {"7": {"content": "<x>", "lstrip": True}}}},
            "without being special",
        ),
        ({"special_tokens_map.json": {"additional_special_tokens": 7}}, "expected a list of tokens"),
        ({"added_tokens.json": {"<x>": -1}}, "expected the id of a token"),
        ({"added_tokens.json": {"<x>": True}}, "expected the id of a token"),
        ({"generation_config.json": {"eos_token_id": ["</s>"]}}, "expected an id, or a list of ids"),
        ({"tokenizer.json": {"added_tokens": [{"content": "<x>"}]}}, "expected the id of a token"),
        ({"tokenizer.json": {"normalizer": {"type": "NFKC"}}}, "'NFKC' prepares text"),
        ({"tokenizer.json": {"pre_tokenizer": {"type": "ByteLevel"}}}, "'ByteLevel' prepares text"),
        ({"tokenizer.json": {"normalizer": {"type": "Sequence", "normalizers": 5}}}, "expected a list of steps"),
        ({"tokenizer.json": {"post_processor": {"type": "RobertaProcessing"}}}, "'RobertaProcessing'"),
        (template(special("<s>"), special("<s>"), SEQUENCE), "at most one special token before"),
        (template(), "at most one special token before"),
        ({"tokenizer.json": {"model": {"type": "Unigram", "vocab": []}}}, "'Unigram' beside a SentencePiece model"),
        ({"tokenizer.json": {"model": {"vocab": {"a": "0"}}}}, "expected the id of every piece"),
    ],
)
def test_what_is_malformed_or_cannot_be_expressed_is_one_sentence(settings, files, message):
    with pytest.raises(InputError) as error:
        settings(files)
    assert message in str(error.value)
    assert next(iter(files)) in str(error.value)
    assert "\n" not in str(error.value)


def test_chat_templates_in_a_folder_of_their_own_are_said_to_be_left_out(settings, tmp_path):
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates/rag.jinja").write_text("{{ x }}")
    assert settings({}).left_out == (("additional_chat_templates", "a chat template 'rag'"),)


DOUBLE = {"type": "Replace", "pattern": {"Regex": r"\A▁"}, "content": "▁▁"}
SKIPPED = (("tokenizer.json", "no space before a text that begins with one"),)


@pytest.mark.parametrize(
    ("normalizer", "scheme", "left_out"),
    [
        (None, "first", SKIPPED),
        (DOUBLE, "first", ()),
        ({"type": "Prepend", "prepend": "▁"}, "first", ()),
        (None, "never", ()),
    ],
)
def test_a_pipeline_that_skips_the_prefix_before_a_space_is_said_to_differ(settings, normalizer, scheme, left_out):
    files = metaspace(prepend_scheme=scheme)
    files["tokenizer.json"]["normalizer"] = normalizer
    assert settings(files).left_out == left_out


def test_a_chat_template_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(InputError, match="not UTF-8"):
        read_settings(tmp_path)


def test_the_digest_is_that_of_the_model_when_it_stands_alone(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"model")
    assert tokenizer_digest(tmp_path / "tokenizer.model") == hashlib.sha256(b"model").hexdigest()


def test_the_digest_covers_every_file_beside_the_model(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"model")
    (tmp_path / "tokenizer_config.json").write_bytes(b"{}")
    names = ("tokenizer.model", "tokenizer_config.json")
    lines = "".join(f"{hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    assert tokenizer_digest(tmp_path / "tokenizer.model") == hashlib.sha256(lines.encode()).hexdigest()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda items: st.lists(items, max_size=3) | st.dictionaries(st.text(max_size=5), items, max_size=3),
    max_leaves=8,
)


@given(data=st.data())
def test_hostile_values_are_refused_and_never_crash(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("hostile")
    name = data.draw(st.sampled_from(sorted(LLAMA_2)))
    content = json.loads(json.dumps(LLAMA_2[name]))
    place, key = content, data.draw(st.sampled_from(sorted(content)))
    while isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    place[key] = data.draw(JSON)
    (folder / name).write_text(json.dumps(content))
    with contextlib.suppress(InputError):
        assert isinstance(read_settings(folder), TokenizerSettings)
