import pytest

from conform.core.tokenizer.bytelevel_template import surrounding_ids

TEXT = {"Sequence": {"id": "A", "type_id": 0}}
BEGIN = {"SpecialToken": {"id": "<b>", "type_id": 0}}
END = {"SpecialToken": {"id": "<e>", "type_id": 0}}
SPECIAL = {"<b>": {"id": "<b>", "ids": [7], "tokens": ["<b>"]}, "<e>": {"id": "<e>", "ids": [8], "tokens": ["<e>"]}}
BYTES = {"type": "ByteLevel", "trim_offsets": False}


def template(*single, special=SPECIAL):
    return {"type": "TemplateProcessing", "single": list(single), "pair": [], "special_tokens": special}


@pytest.mark.parametrize(
    ("processor", "ids"),
    [
        (None, (-1, -1)),
        (BYTES, (-1, -1)),
        (template(TEXT), (-1, -1)),
        (template(BEGIN, TEXT), (7, -1)),
        (template(TEXT, END), (-1, 8)),
        (template(BEGIN, TEXT, END), (7, 8)),
        ({"type": "Sequence", "processors": [BYTES, template(BEGIN, TEXT)]}, (7, -1)),
        ({"type": "Sequence", "processors": []}, (-1, -1)),
    ],
)
def test_bos_and_eos_are_what_stands_around_a_text(processor, ids):
    assert surrounding_ids(processor, 9) == ids


@pytest.mark.parametrize(
    ("processor", "reason"),
    [
        ({"type": "RobertaProcessing"}, "RobertaProcessing, expected one TemplateProcessing"),
        (
            {"type": "Sequence", "processors": [template(TEXT), template(TEXT)]},
            "TemplateProcessing, TemplateProcessing",
        ),
        ({"type": "Sequence", "processors": None}, "malformed"),
        ({"type": "Sequence", "processors": [1]}, "malformed"),
        (template(BEGIN, BEGIN, TEXT), "more than BOS and EOS"),
        (template(BEGIN, TEXT, special={"<b>": {"ids": [7, 8]}}), "more than BOS and EOS"),
        (template(BEGIN), "has 0 places for a text"),
        (template(TEXT, TEXT), "has 2 places for a text"),
        (template(BEGIN, TEXT, special={}), "names '<b>' without saying which ids"),
        (template(BEGIN, TEXT, special={"<b>": {"ids": ["7"]}}), "without saying which ids"),
        (template({"Other": 1}, TEXT), "without saying which ids"),
        (template("$A"), "malformed"),
        (template(BEGIN, TEXT, special={"<b>": {"ids": [9]}}), "adds piece 9, but there are 9 pieces"),
        (template(BEGIN, TEXT, special={"<b>": {"ids": [-1]}}), "adds piece -1"),
    ],
)
def test_anything_else_is_refused(processor, reason):
    with pytest.raises(ValueError, match=reason):
        surrounding_ids(processor, 9)
