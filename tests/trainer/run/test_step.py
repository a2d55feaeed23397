import dataclasses

import pytest
import torch

from conform.contract.load import load_contract
from conform.trainer.config import TrainConfig
from conform.trainer.distributed.fsdp import build_model
from conform.trainer.distributed.world import World
from conform.trainer.run.optimizer import build_optimizer
from conform.trainer.run.step import StepResult, train_step

SPEC = dataclasses.replace(
    load_contract("nano").model, hidden=32, heads=4, kv_heads=2, head_dim=8, rope_dim=8, ffn=64, vocab=50, context=16
)
CONFIG = TrainConfig(steps=10, batch=4, sequence=8, lr=1e-2, warmup=0.0, dtype="f32")
WORLD = World(0, 1, torch.device("cpu"))
TOKENS = torch.randint(0, 50, (4, 9), generator=torch.Generator().manual_seed(1))


def after_steps(count, config=CONFIG):
    """The results of the first steps on the same tokens, and the model after them."""
    model = build_model(SPEC, config, WORLD)
    optimizer = build_optimizer(model, config)
    return [train_step(model, optimizer, TOKENS, step, config, WORLD) for step in range(count)], model


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_the_loss_is_that_of_the_model_before_the_update():
    (result,), _ = after_steps(1)
    with torch.no_grad():
        total = build_model(SPEC, CONFIG, WORLD)(TOKENS[:, :-1], TOKENS[:, 1:])
    assert result.loss == float(total) / (4 * 8)
    assert result.lr == CONFIG.lr


def test_each_step_predicts_the_same_tokens_better():
    losses = [result.loss for result in after_steps(5)[0]]
    assert losses == sorted(losses, reverse=True)


def test_the_same_steps_give_the_same_bits():
    (ours, model), (theirs, other) = after_steps(3), after_steps(3)
    assert ours == theirs
    assert all(torch.equal(p, weights(other)[name]) for name, p in weights(model).items())


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_micro_batches_add_up_to_the_batch(micro_batch):
    (whole,), _ = after_steps(1)
    (parts,), _ = after_steps(1, dataclasses.replace(CONFIG, micro_batch=micro_batch))
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    assert parts.grad_norm == pytest.approx(whole.grad_norm, rel=1e-5)


def test_no_gradient_is_left_for_the_next_step():
    _, model = after_steps(1)
    assert all(p.grad is None for p in model.parameters())


def test_a_step_that_diverges_leaves_the_weights_as_they_were():
    model = build_model(SPEC, CONFIG, WORLD)
    model.model.norm.weight.data[3] = float("inf")
    before = weights(model)
    result = train_step(model, build_optimizer(model, CONFIG), TOKENS, 0, CONFIG, WORLD)
    assert not result.finite
    assert all(torch.equal(p, before[name]) for name, p in weights(model).items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("loss", "norm", "finite"),
    [(1.0, 2.0, True), (float("nan"), 1.0, False), (1.0, float("inf"), False)],
)
def test_a_result_is_finite_when_loss_and_norm_are(loss, norm, finite):
    assert StepResult(loss, norm, 1e-3).finite == finite
