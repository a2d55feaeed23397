import dataclasses

import pytest
import torch

from conform.contract.load import load_contract
from conform.trainer.config import TrainConfig
from conform.trainer.model.model import Llama
from conform.trainer.run.optimizer import build_optimizer, clip_gradients, set_schedule, slots

SPEC = dataclasses.replace(
    load_contract("nano").model, hidden=32, heads=4, kv_heads=2, head_dim=8, rope_dim=8, ffn=64, vocab=50, context=16
)
CONFIG = TrainConfig(steps=100, lr=1e-2, weight_decay=0.5, decay_until=0.5, warmup=0.0)


@pytest.fixture
def model():
    return Llama(SPEC)


def test_matrices_decay_and_vectors_do_not(model):
    optimizer = build_optimizer(model, CONFIG)
    set_schedule(optimizer, 0, CONFIG)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        expected = before[name] * (1 - 1e-2 * 0.5) if p.ndim == 2 else before[name]
        torch.testing.assert_close(p.detach(), expected, msg=name)


def test_decay_is_off_in_the_second_part(model):
    optimizer = build_optimizer(model, CONFIG)
    set_schedule(optimizer, 50, CONFIG)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0}


def test_state_exists_before_the_first_step(model):
    names = [name for name, _ in slots(model, build_optimizer(model, CONFIG))]
    assert len(names) == 2 * len(list(model.parameters()))
    assert "model.norm.weight/exp_avg_sq" in names


def test_state_made_at_once_is_the_state_that_adamw_makes(model):
    other = Llama(SPEC)
    other.load_state_dict(model.state_dict())
    ours = build_optimizer(model, CONFIG)
    theirs = torch.optim.AdamW(other.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    ours.param_groups[0]["weight_decay"] = ours.param_groups[1]["weight_decay"] = 0.0
    tokens = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        for network, optimizer in ((model, ours), (other, theirs)):
            optimizer.zero_grad()
            network(tokens[:, :-1], tokens[:, 1:]).mean().backward()
            optimizer.step()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_clipping_bounds_the_norm_and_reports_the_one_before(model):
    for p in model.parameters():
        p.grad = torch.full_like(p, 3.0)
    before = 3.0 * sum(p.numel() for p in model.parameters()) ** 0.5
    assert clip_gradients(model, 1.0) == pytest.approx(before, rel=1e-5)
    assert clip_gradients(model, 0.0) == pytest.approx(1.0, rel=1e-4)
