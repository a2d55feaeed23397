import json
import os
import random

import numpy as np
import pytest
import torch

from conform.trainer.checkpoints.state import Environment, TrainState, capture_random, read_state, restore_random
from conform.trainer.errors import ConformError

CPU = torch.device("cpu")


def state():
    return TrainState(7, 700, "a" * 64, "b" * 64, "c" * 64, {"lr": 0.1}, Environment.here(1, CPU, "f32"))


def test_a_written_state_reads_back_equal(tmp_path):
    (tmp_path / "state.json").write_text(state().to_json())
    assert read_state(tmp_path / "state.json") == state()


def test_every_generator_goes_on_where_it_was(tmp_path):
    captured = tmp_path / "random.json"
    captured.write_text(capture_random(CPU))
    expected = [random.random(), np.random.random(), torch.rand(3).tolist(), random.gauss(0, 1), np.random.randn()]
    restore_random(captured, CPU)
    assert [
        random.random(),
        np.random.random(),
        torch.rand(3).tolist(),
        random.gauss(0, 1),
        np.random.randn(),
    ] == expected


def test_another_world_is_told_apart():
    here, there = Environment.here(1, CPU, "f32"), Environment.here(2, CPU, "f32")
    assert there.differences(here) == ["world: 2, was 1"]
    assert here.differences(here) == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"format": 2}', '{"format": 1}', '{"format": 1, "environment": 3}']
)
def test_a_state_that_cannot_be_read_is_named(tmp_path, text):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(ConformError, match=r"state\.json: "):
        read_state(tmp_path / "state.json")


NUMPY = ["MT19937", [1] * 624, 624, 0, 0.0]
HOSTILE = {
    "nothing": "",
    "an empty object": "{}",
    "too few words": json.dumps({"python": [3, [1], None]}),
    "no numbers": json.dumps({"python": [3, None, None]}),
    "a list": json.dumps({"python": [3, [-1] * 625, None]}),
    "numpy's position outside": json.dumps({"python": random.getstate(), "numpy": [*NUMPY[:2], 1 << 40, 0, 0.0]}),
    "torch's state a number": json.dumps({"python": random.getstate(), "numpy": NUMPY, "torch": 7}),
    "torch's state too short": json.dumps({"python": random.getstate(), "numpy": NUMPY, "torch": "00"}),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_damaged_random_state_is_refused(tmp_path, text):
    (tmp_path / "random.json").write_text(text)
    with pytest.raises(ConformError, match=r"random\.json: .*random state"):
        restore_random(tmp_path / "random.json", CPU)


@pytest.mark.timeout(20)
def test_a_pipe_in_place_of_a_random_state_is_refused(tmp_path):
    os.mkfifo(tmp_path / "random.json")
    with pytest.raises(ConformError, match="not a regular file"):
        restore_random(tmp_path / "random.json", CPU)
