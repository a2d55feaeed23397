import dataclasses

import pytest
import torch

from conform.contract.load import load_contract
from conform.trainer.config import TrainConfig
from conform.trainer.distributed.fsdp import build_model
from conform.trainer.distributed.world import World
from conform.trainer.model.model import Block, rotary_table
from conform.trainer.planning.memory import block_activations, largest_micro_batch, memory_plan, training_days
from conform.trainer.run.optimizer import build_optimizer

BASE = load_contract("base-1.5b").model
BF16 = TrainConfig(steps=1, batch=512, sequence=4096, dtype="bf16")
TOKENS = 146  # no weight has this dimension


def kept_for_backward(block, x, rotation):
    """Bytes of everything but weights that autograd keeps for the backward pass of a block."""
    weights = {shape for p in block.parameters() if p.ndim == 2 for shape in (p.shape, p.T.shape)}
    storages, alive = {}, []

    def keep(tensor):
        alive.append(tensor)
        if tensor.shape not in weights:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _ = block(x, rotation)
    return sum(storages.values())


@pytest.mark.parametrize("contract", ["nano", "nano+ternary", "nano+bitnet", "tiny", "tiny+ternary"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_activations_of_a_block_are_those_that_autograd_keeps(contract, dtype):
    spec = load_contract(contract).model
    x = torch.randn(2, TOKENS // 2, spec.hidden, dtype=dtype, requires_grad=True)
    measured = kept_for_backward(Block(spec, False), x, rotary_table(spec, TOKENS // 2, x.device))
    assert block_activations(spec, TOKENS, dtype.itemsize) == pytest.approx(measured, rel=0.02)


def test_the_state_is_what_the_optimizer_allocates():
    spec = dataclasses.replace(load_contract("nano").model, vocab=64)
    config = TrainConfig(steps=1, dtype="f32", batch=1)
    model = build_model(spec, config, World(0, 1, torch.device("cpu")))
    optimizer = build_optimizer(model, config)
    moments = sum(t.nbytes for slot in optimizer.state.values() for name, t in slot.items() if name != "step")
    plan = memory_plan(spec, config, 1, 1)
    assert plan.weights == sum(p.nbytes for p in model.parameters())
    assert plan.optimizer == moments


def test_more_devices_need_less_each():
    totals = [memory_plan(BASE, BF16, devices, 1).total for devices in (2, 4, 8, 64)]
    assert totals == sorted(totals, reverse=True)


def test_base_trains_on_eight_devices_of_eighty_gigabytes_and_on_one():
    assert largest_micro_batch(BASE, BF16, 8, 80) >= 8
    assert largest_micro_batch(BASE, BF16, 1, 80) >= 1


def test_what_does_not_fit_is_said():
    assert largest_micro_batch(BASE, BF16, 1, 16) == 0


def test_recomputing_saves_most_activations():
    kept = memory_plan(BASE, dataclasses.replace(BF16, recompute=False), 8, 1).peak.activations
    assert memory_plan(BASE, BF16, 8, 1).peak.activations < kept / 5


def test_as_activations_go_gradients_come():
    few, many = (memory_plan(BASE, dataclasses.replace(BF16, batch=micro), 1, micro).peak for micro in (1, 64))
    assert few.gradients > 0
    assert many.gradients == 0
    assert many.name == "in the last block"


def test_the_micro_batch_never_exceeds_the_share_of_a_device():
    assert largest_micro_batch(BASE, dataclasses.replace(BF16, batch=16), 8, 10_000) == 2


def test_days_follow_from_six_flops_a_weight_and_token():
    # 30.5e9 tokens of 1.5e9 weights at 6 operations, a third more for recomputing, attention besides.
    days = training_days(BASE, BF16, 8, 30_500_000_000, 0.4 * 989e12)
    assert 1.0 < days < 2.0
