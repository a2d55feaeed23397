import pytest

from conform.core.tokenizer.pre import PRE_TOKENIZERS, name_pre_tokenizer, pre_tokenizer_named

SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
LLAMA3 = PRE_TOKENIZERS["llama-bpe"].definition["pretokenizers"][0]["pattern"]["Regex"]


def split_by(pattern, **changes):
    return {"type": "Sequence", "pretokenizers": [SPLIT | {"pattern": {"Regex": pattern}} | changes, BYTES]}


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_each_known_pre_tokenizer_is_found_by_what_it_does(name):
    known = PRE_TOKENIZERS[name]
    assert name_pre_tokenizer(known.definition, known.ignore_merges) == name


@pytest.mark.parametrize(
    ("definition", "ignore_merges", "name"),
    [
        (split_by(LLAMA3.replace(r"\s+(?!\S)|\s+", r"\s+(?!\S)|\s")), True, "llama-bpe"),
        (split_by(LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")), False, "qwen2"),
        (split_by("(" + LLAMA3 + ")", behavior="Removed", invert=True), True, "llama-bpe"),
        (
            {
                "type": "Sequence",
                "pretokenizers": [SPLIT | {"pattern": {"Regex": r"\p{N}"}}, BYTES | {"use_regex": True}],
            },
            False,
            "smollm",
        ),
    ],
    ids=["another last branch", "single digits", "removed instead of isolated", "a pattern instead of Digits"],
)
def test_how_it_is_written_does_not_matter(definition, ignore_merges, name):
    assert name_pre_tokenizer(definition, ignore_merges) == name


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        ({}, "cannot be used"),
        ({"type": "Nonsense"}, "(Nonsense) cannot be used"),
        ({"type": "Whitespace"}, "(Whitespace) with ignore_merges = true does not cut text as any of llama-bpe"),
        (BYTES | {"use_regex": True, "add_prefix_space": True}, "does not cut text as any"),
        (split_by(LLAMA3.replace("1,3", "1,4")), "(Split, ByteLevel) with"),
        (split_by(LLAMA3.replace("(?i:", "(?:")), "(Split, ByteLevel) with"),
        (split_by(LLAMA3.replace(r"[\r\n]*", "")), "(Split, ByteLevel) with"),
        (split_by("("), "cannot be used"),
        (split_by("(a+)+$"), "its pattern aborts the library"),
    ],
)
def test_any_other_is_refused_by_name(definition, reason):
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the whole text is checked
        name_pre_tokenizer(definition, True)
    assert reason in str(refused.value)
    assert len(str(refused.value)) < 400


def test_the_same_cuts_have_another_name_where_merges_are_not_ignored():
    definition = PRE_TOKENIZERS["llama-bpe"].definition
    assert (name_pre_tokenizer(definition, True), name_pre_tokenizer(definition, False)) == ("llama-bpe", "dbrx")


def test_every_name_of_llama_cpp_means_one_pre_tokenizer():
    names = [name for known in PRE_TOKENIZERS.values() for name in known.names]
    assert len(names) == len(set(names))
    assert all(pre_tokenizer_named(name) is not None for name in names)
    assert pre_tokenizer_named("no such name") is None
