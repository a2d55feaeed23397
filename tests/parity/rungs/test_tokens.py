from dataclasses import replace

import pytest

from conform.parity.rungs.tokens import PrintedPieces, Tokenisation, TokenisedText, judge_tokens

RIGHT = TokenisedText("a clock", (1, 7, 9), (1, 7, 9), count=3, last=9)
PRINTED = PrintedPieces(b" a clock", (b" a clock", b" a clock\n"))


def test_the_same_ids_and_text_pass():
    result = judge_tokens(Tokenisation([RIGHT], PRINTED))
    assert result.passed
    assert result.compared == 3


@pytest.mark.parametrize("text", PRINTED.accepted)
def test_byte_pieces_may_be_printed_raw_or_spelt_out(text):
    assert judge_tokens(Tokenisation([RIGHT], replace(PRINTED, found=text))).passed


@pytest.mark.parametrize(
    "wrong",
    [
        replace(RIGHT, listed=(1, 7, 8)),
        replace(RIGHT, listed=(1, 7)),
        replace(RIGHT, listed=()),
        replace(RIGHT, count=2),
        replace(RIGHT, last=8),
        replace(RIGHT, listed=None, count=4),
    ],
)
def test_other_ids_fail(wrong):
    result = judge_tokens(Tokenisation([RIGHT, wrong], PRINTED))
    assert not result.passed
    assert result.measurements[0].measured == 1


def test_the_first_id_that_differs_is_named():
    result = judge_tokens(Tokenisation([replace(RIGHT, listed=(1, 8, 9))], PRINTED))
    assert result.findings[0].where == "'a clock', id 1"
    assert (result.findings[0].expected, result.findings[0].found) == ("[7, 9] of 3", "[8, 9] of 3")


@pytest.mark.parametrize("printed", [None, replace(PRINTED, found=b" a glock"), replace(PRINTED, found=b" a")])
def test_other_text_fails(printed):
    assert not judge_tokens(Tokenisation([RIGHT], printed)).passed


def test_ids_that_are_not_listed_are_compared_by_number_and_last():
    result = judge_tokens(Tokenisation([RIGHT, replace(RIGHT, listed=None)], PRINTED, "it refuses an empty prompt"))
    assert result.passed
    assert result.compared == 3 + 2
    assert result.notes[0].startswith("1 of 2 texts compared id by id")
    assert result.notes[1] == "it refuses an empty prompt"


def test_no_text_at_all_is_not_a_pass():
    result = judge_tokens(Tokenisation([], PRINTED))
    assert (result.status, result.reason) == ("fail", "nothing was compared")


def test_without_a_tokenizer_it_is_not_run_and_blocks_nothing():
    result = judge_tokens(None)
    assert result.status == "not run"
    assert not result.blocks
