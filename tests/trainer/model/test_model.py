import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from conform.contract.check import TensorSeen, check_tensors
from conform.contract.load import load_contract
from conform.contract.spec import RopeScaling
from conform.trainer.config import TrainConfig
from conform.trainer.distributed.fsdp import build_model
from conform.trainer.distributed.world import World
from conform.trainer.model.model import Llama, rotary_table, rotate
from conform.trainer.run.optimizer import build_optimizer
from conform.trainer.run.step import train_step

SMALL = dataclasses.replace(
    load_contract("nano").model, hidden=64, heads=8, kv_heads=2, head_dim=16, rope_dim=16, ffn=96, vocab=101, context=32
)
VARIANTS = {
    "dense": SMALL,
    "untied": dataclasses.replace(SMALL, tied_embeddings=False),
    "ternary": dataclasses.replace(SMALL, linear="ternary"),
    "bitnet": dataclasses.replace(SMALL, architecture="bitnet-b1.58", linear="ternary", sub_norms=True),
    "part of a head rotates": dataclasses.replace(SMALL, rope_dim=8),
    "scaled positions": dataclasses.replace(SMALL, rope_scaling=RopeScaling("linear", 2.5)),
}
TRANSFORMERS = json.loads((Path(__file__).parents[2] / "contract/rope_of_transformers.json").read_text())
TOKENS = torch.randint(0, SMALL.vocab, (2, 33), generator=torch.Generator().manual_seed(5))
INPUTS, TARGETS = TOKENS[:, :-1], TOKENS[:, 1:]


@pytest.fixture(params=VARIANTS, ids=str)
def spec(request):
    return VARIANTS[request.param]


def build(spec, **options):
    model = Llama(spec, **options)
    for name, parameter in model.named_parameters():
        # Wider than a fresh model's, and norms other than 1, so that a mistake shows.
        parameter.data.copy_(model.initial(name, 3) * 4 + (0.1 if parameter.ndim == 1 else 0))
    return model


def gradients(model):
    model.zero_grad()
    (model(INPUTS, TARGETS) / TARGETS.numel()).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def test_its_tensors_are_exactly_those_of_the_contract(spec):
    seen = {name: TensorSeen(tuple(p.shape), "F32") for name, p in Llama(spec).named_parameters()}
    assert check_tensors(seen, spec) == []
    assert set(Llama(spec).state_dict()) == set(seen), "buffers would end up in checkpoints"


def test_the_parameter_count_is_the_contract_s(spec):
    assert sum(p.numel() for p in Llama(spec).parameters()) == spec.parameters


def test_a_fresh_model_knows_nothing():
    model = Llama(SMALL)
    for name, parameter in model.named_parameters():
        parameter.data.copy_(model.initial(name, 1))
    assert model(INPUTS, TARGETS).item() / TARGETS.numel() == pytest.approx(torch.tensor(101.0).log().item(), abs=0.1)


def test_the_initial_value_is_a_function_of_name_and_seed():
    model = Llama(SMALL)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert model.initial(name, 1).equal(Llama(SMALL).initial(name, 1))
    assert not model.initial(name, 1).equal(model.initial(name, 2))
    assert not model.initial(name, 1).equal(model.initial(name.replace("0", "1"), 1))


def test_no_position_sees_a_later_one(spec):
    model = build(spec)
    changed = INPUTS.clone()
    changed[:, 20] = (changed[:, 20] + 1) % SMALL.vocab
    before, after = model(INPUTS), model(changed)
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.allclose(before[:, 20:], after[:, 20:])


def test_the_loss_is_the_cross_entropy_of_the_logits(spec):
    model = build(spec)
    expected = F.cross_entropy(model(INPUTS).double().flatten(0, 1), TARGETS.flatten(), reduction="sum")
    torch.testing.assert_close(model(INPUTS, TARGETS), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recomputing_activations_changes_no_bit(spec, dtype):
    kept, recomputed = (build(spec, compute_dtype=dtype, recompute=flag) for flag in (False, True))
    for name, gradient in gradients(kept).items():
        assert gradients(recomputed)[name].equal(gradient), name


def test_recomputing_changes_no_bit_of_training_at_real_shapes():
    """Three steps of nano+ternary in bfloat16: what rounding or a kernel does only beyond a toy's sizes shows here."""
    spec = load_contract("nano+ternary").model
    config = TrainConfig(steps=3, batch=2, sequence=128, lr=3e-3, dtype="bf16")
    tokens = torch.randint(0, spec.vocab, (3, 2, 129), generator=torch.Generator().manual_seed(7))
    assert trained(spec, config, tokens, recompute=True) == trained(spec, config, tokens, recompute=False)


def trained(spec, config, tokens, *, recompute):
    """Losses and gradient norms of a step for each of the tokens, and a hash of every weight after them."""
    config, world = dataclasses.replace(config, recompute=recompute), World(0, 1, torch.device("cpu"))
    model = build_model(spec, config, world)
    optimizer = build_optimizer(model, config)
    found = [train_step(model, optimizer, batch, step, config, world) for step, batch in enumerate(tokens)]
    return found, {name: hashlib.sha256(p.detach().numpy()).hexdigest() for name, p in model.named_parameters()}


def test_chunks_of_the_loss_add_up():
    whole, chunked = build(SMALL), build(SMALL, loss_chunk=7)
    torch.testing.assert_close(chunked(INPUTS, TARGETS), whole(INPUTS, TARGETS), rtol=1e-6, atol=0)
    for name, gradient in gradients(whole).items():
        torch.testing.assert_close(gradients(chunked)[name], gradient)


def test_attention_without_groups_is_attention_with_repeated_heads():
    grouped = build(SMALL)
    full = build(dataclasses.replace(SMALL, kv_heads=SMALL.heads))
    values = grouped.state_dict()
    for name in values:
        if "k_proj" in name or "v_proj" in name:
            heads = values[name].view(SMALL.kv_heads, SMALL.head_dim, SMALL.hidden)
            values[name] = heads.repeat_interleave(4, dim=0).reshape(SMALL.q_width, SMALL.hidden)
    full.load_state_dict(values)
    torch.testing.assert_close(full(INPUTS), grouped(INPUTS))


def test_rotation_turns_the_pairs_i_and_i_plus_half():
    table = rotary_table(SMALL, 5, torch.device("cpu"))
    x = torch.randn(1, 1, 5, 16, generator=torch.Generator().manual_seed(1))
    as_complex = torch.complex(x[..., :8], x[..., 8:])
    angles = torch.arange(5.0)[:, None] * 10000.0 ** (-torch.arange(8.0) / 8)
    turned = as_complex * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(rotate(x, table), torch.cat((turned.real, turned.imag), dim=-1))


@pytest.mark.parametrize("case", TRANSFORMERS.values(), ids=TRANSFORMERS)
def test_scaled_positions_turn_as_in_transformers(case):
    """Its angles are float32 products, so that they are off by some 1e-7 of themselves."""
    spec = dataclasses.replace(SMALL, rope_base=case["base"], rope_scaling=RopeScaling(**case["scaling"]))
    table = rotary_table(spec, max(case["positions"]) + 1, torch.device("cpu"))
    for found, name in zip(table, ("cos", "sin"), strict=True):
        expected = torch.tensor([[float.fromhex(value) for value in row] for row in case[name]])
        torch.testing.assert_close(found[case["positions"]], expected, rtol=0, atol=2e-4)
        torch.testing.assert_close(found[case["positions"][:3]], expected[:3], rtol=0, atol=2e-6)


@pytest.mark.parametrize("case", TRANSFORMERS.values(), ids=TRANSFORMERS)
def test_the_logits_with_scaled_positions_are_those_of_transformers(case):
    """The model, its weights and the tokens are those that tests/parity/reference/test_rope.py describes."""
    sizes = {"hidden": 24, "heads": 2, "kv_heads": 1, "ffn": 20, "vocab": 20, "layers": 2, "norm_eps": 1e-5}
    scaling = RopeScaling(**case["scaling"])
    model = Llama(dataclasses.replace(SMALL, **sizes, rope_base=case["base"], rope_scaling=scaling))
    for number, (_, parameter) in enumerate(sorted(model.named_parameters())):
        k = torch.arange(parameter.numel(), dtype=torch.float64)
        values = torch.sin(k * k * 0.37 + k + number) + (parameter.ndim == 1)
        parameter.data.copy_(values.reshape(parameter.shape))
    tokens = torch.tensor([[(7 * k * k + 3 * k) % 20 for k in range(60)]])
    expected = torch.tensor([float.fromhex(value) for value in case["logits"]])
    torch.testing.assert_close(model(tokens)[0, -1], expected, rtol=0, atol=2e-4)


def test_scores_depend_on_distance_alone():
    table = rotary_table(SMALL, 12, torch.device("cpu"))
    q, k = torch.randn(2, 16, generator=torch.Generator().manual_seed(1)).expand(12, 2, 16).transpose(0, 1)
    scores = rotate(q[None, None], table)[0, 0] @ rotate(k[None, None], table)[0, 0].T
    torch.testing.assert_close(scores[3, 1], scores[9, 7])


def test_bitnet_squares_the_positive_part_of_the_gate():
    spec = dataclasses.replace(SMALL, architecture="bitnet-b1.58")
    mlp = build(spec).model.layers[0].mlp
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    gate, up = mlp.gate_proj(x), mlp.up_proj(x)
    torch.testing.assert_close(mlp(x), mlp.down_proj(gate.clamp(min=0) ** 2 * up))


def test_bfloat16_stays_near_float32(spec):
    exact, rounded = build(spec)(INPUTS), build(spec, compute_dtype=torch.bfloat16)(INPUTS)
    assert rounded.dtype == torch.float32
    assert (exact - rounded).square().mean().sqrt() < 0.1 * exact.std()


def test_a_step_on_another_device_leaves_nothing_on_the_cpu(spec):
    # Tensors without content stand in for a device that is not there; to mix them with others is an error.
    with torch.device("meta"):
        model = Llama(spec, compute_dtype=torch.bfloat16, recompute=True, loss_chunk=7)
    total = model(INPUTS.to("meta"), TARGETS.to("meta"))
    total.backward()
    assert {tensor.device.type for p in model.parameters() for tensor in (p, p.grad)} == {"meta"}
