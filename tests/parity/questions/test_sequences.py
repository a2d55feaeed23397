import dataclasses

import numpy as np
import pytest

from conform.core.runtime import RuntimeFault, Step
from conform.parity.questions.sequences import FREE, Scope, observed_ids, plan_sequences
from conform.parity.questions.start import StartPrompt
from conform.parity.questions.tokenizer import open_tokenizer
from conform.parity.reference.dimensions import dimensions_of_model

DEFAULT = Scope()


@pytest.fixture
def sizes(micro):
    return dimensions_of_model(micro.model)


@pytest.fixture
def plan(sizes, tokenizer_model, micro):
    tokenizer = open_tokenizer(tokenizer_model, micro.tokenizer)

    def make(scope=DEFAULT, bos=(1,), tokenizer=tokenizer):
        return plan_sequences(sizes, StartPrompt("", bos), tokenizer, scope, lambda ids: 0.7)

    return make


def test_more_than_one_prompt_more_than_the_last_token_and_more_than_short(plan, sizes):
    sequences = plan()
    assert {p.kind for p in sequences} == {"text", "random", "long", "prompt", "greedy", "sampled"}
    assert sum(len(p.steps) for p in sequences) > 50
    assert max(p.position(step) for p in sequences for step in p.steps) == sizes.context - 1


def test_no_sequence_runs_out_of_the_context(plan, sizes):
    for sequence in plan(Scope(max_tokens=1000, forced_positions=1000, longest=10_000)):
        assert sequence.position(sequence.steps[-1]) < sizes.context


def test_forced_prose_is_watched_at_every_position(plan):
    text = next(p for p in plan() if p.kind == "text")
    assert list(text.steps) == list(range(len(text.ids)))


def test_every_sampler_option_has_a_sequence(plan):
    options = [p.request.sampling for p in plan() if p.kind == "sampled"]
    assert any(o.top_k for o in options)
    assert any(o.top_p < 1 for o in options)
    assert len({o.seed for o in options}) == len(options)


def test_a_prompt_of_the_users_is_generated_from(plan):
    sequences = plan(Scope(prompts=("one clock",)))
    assert {p.request.prompt for p in sequences if p.kind in FREE} == {"one clock"}


def test_without_a_tokenizer_random_ids_remain(plan):
    assert {p.kind for p in plan(tokenizer=None)} == {"random"}


def test_without_bos_nothing_can_be_forced(plan):
    assert not [p for p in plan(bos=()) if p.request.forced]


def traced(sequence, sizes):
    ids = sequence.ids
    return [
        Step(sequence.position(s), ids[sequence.position(s)], sizes.layers, np.zeros(sizes.hidden, np.float32), 0, 0.0)
        for s in sequence.steps
    ]


def test_a_right_trace_gives_the_ids(plan, sizes):
    sequence = next(p for p in plan() if p.kind == "random")
    assert observed_ids(sequence, traced(sequence, sizes), sizes) == sequence.ids


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"layers": 1}, "number of layers run"),
        ({"position": 0}, "position"),
        ({"token": 3}, "input token"),
        ({"hidden": np.zeros(3, np.float32)}, "width of the hidden state"),
        ({"logits": np.zeros(3, np.float32)}, "number of logits"),
        ({"argmax": 512}, "token 512 of 512"),
    ],
)
def test_a_trace_of_something_else_is_a_wrong_answer(plan, sizes, change, reason):
    sequence = next(p for p in plan() if p.kind == "random")
    steps = traced(sequence, sizes)
    steps[4] = dataclasses.replace(steps[4], **change)
    with pytest.raises(RuntimeFault, match=reason) as caught:
        observed_ids(sequence, steps, sizes)
    assert caught.value.kind == "answered wrongly"
