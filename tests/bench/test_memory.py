"""What `conform train plan` says, against simulated steps of the trainer."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest

from conform.contract.load import load_contract
from conform.trainer.config import TrainConfig
from conform.trainer.planning.memory import memory_plan

MEDIUM = dataclasses.replace(load_contract("medium").model, layers=3)


@pytest.fixture(scope="module")
def memory():
    spec = importlib.util.spec_from_file_location("memory", Path(__file__).parents[2] / "bench" / "memory.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def config(devices, micro, accumulated=1, **changes):
    return TrainConfig(
        steps=1, batch=devices * micro * accumulated, sequence=1024, dtype="bf16", loss_chunk=4096, **changes
    )


@pytest.mark.parametrize(
    ("changes", "devices", "micro", "accumulated", "recompute"),
    [
        ({}, 1, 4, 1, True),
        ({}, 1, 4, 1, False),
        ({"tied_embeddings": False}, 1, 1, 2, True),
        ({"linear": "ternary"}, 1, 4, 1, True),
        ({"linear": "ternary", "sub_norms": True, "architecture": "bitnet-b1.58"}, 1, 8, 1, True),
        ({}, 8, 4, 1, True),
        ({}, 8, 4, 2, True),
        ({"linear": "ternary"}, 4, 4, 1, False),
    ],
)
def test_the_plan_is_within_a_tenth_of_a_simulated_step(memory, changes, devices, micro, accumulated, recompute):
    spec = dataclasses.replace(MEDIUM, **changes)
    settings = config(devices, micro, accumulated, recompute=recompute)
    planned = memory_plan(spec, settings, devices, micro).allocated
    assert planned == pytest.approx(memory.simulate(spec, settings, devices, micro), rel=0.1)


def test_a_simulation_counts_every_byte_of_weights_gradients_and_moments(memory):
    spec = dataclasses.replace(load_contract("nano").model, layers=8, context=2)
    settings = TrainConfig(steps=1, batch=1, sequence=1, dtype="f32")
    assert memory.simulate(spec, settings, 1, 1) == pytest.approx(16 * spec.parameters, rel=0.02)
