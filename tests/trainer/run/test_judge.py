import dataclasses
import math

import pytest
import torch

from conform.contract.load import load_contract
from conform.core.codec import Codec
from conform.core.errors import PluginError
from conform.core.quantizer import Layout
from conform.trainer.distributed.world import World
from conform.trainer.model.model import Llama
from conform.trainer.run.judge import Judge, find_quantizers, off_trend

SPEC = dataclasses.replace(
    load_contract("nano").model,
    hidden=256,
    heads=4,
    kv_heads=2,
    head_dim=64,
    rope_dim=64,
    ffn=512,
    vocab=99,
    context=32,
)
TERNARY = dataclasses.replace(SPEC, linear="ternary")
WORLD = World(0, 1, torch.device("cpu"))
TOKENS = torch.randint(0, 99, (3, 25), generator=torch.Generator().manual_seed(2))


def model(spec):
    built = Llama(spec)
    for name, parameter in built.named_parameters():
        parameter.data.copy_(built.initial(name, 1) * 3)
    return built


def judged(names, spec, built, *, step=1, earlier=(), **options):
    """What a judge of those quantizers finds in the model."""
    return Judge(find_quantizers(names), spec, earlier, **options).judge(built, TOKENS, step, WORLD)


def judgement(spec, quantizer):
    return judged(quantizer, spec, model(spec))[0]


def test_float32_costs_nothing():
    found = judgement(SPEC, "f32")
    assert found.kl == pytest.approx(0, abs=1e-12)
    assert found.delta_nll == pytest.approx(0, abs=1e-9)


def test_i2_s_of_a_ternary_model_costs_nothing():
    assert judgement(TERNARY, "i2_s").kl == pytest.approx(0, abs=1e-6)


def test_i2_s_of_a_dense_model_costs_more_than_eight_bits():
    assert judgement(SPEC, "i2_s").kl > 100 * judgement(SPEC, "q8_0").kl > 0


def test_the_99th_percentile_is_no_less_than_the_mean():
    found = judgement(SPEC, "i2_s")
    assert found.kl_p99 >= found.kl


def test_several_are_judged_in_order():
    found = judged("q8_0, i2_s", SPEC, model(SPEC))
    assert [each.quantizer for each in found] == ["q8_0", "i2_s"]


def test_the_model_is_left_as_it_was():
    built = model(SPEC)
    before = {name: p.detach().clone() for name, p in built.named_parameters()}
    judged("i2_s", SPEC, built)
    assert all(torch.equal(p, before[name]) for name, p in built.named_parameters())


def test_weights_that_cannot_be_quantised_raise_the_alarm():
    built = model(SPEC)
    built.model.layers[1].mlp.up_proj.weight.data[3, 5] = math.inf
    found = judged("q8_0", SPEC, built, step=7)[0]
    assert "step 7: q8_0 is impossible" in found.alarm
    assert found.to_json()["kl"] is None


def test_a_broken_plugin_raises_the_alarm_and_the_run_goes_on():
    class Broken:
        name = "broken"
        layout = Layout(9000, 1)

        def nbytes(self, shape):
            return 4 * math.prod(shape)

        def quantize(self, values, importance=None):
            values[:] = 0
            raise ZeroDivisionError("oops")

    found = Judge([Codec(Broken(), "acme 1.0")], SPEC, ()).judge(model(SPEC), TOKENS, 7, WORLD)[0]
    assert "step 7: broken is impossible" in found.alarm
    assert (
        "model.layers.0.self_attn.q_proj.weight: quantizer broken of acme 1.0 failed: ZeroDivisionError" in found.alarm
    )
    assert found.to_json()["kl"] is None


def test_an_unknown_quantizer_is_refused_by_name():
    with pytest.raises(PluginError, match="q9_9"):
        find_quantizers("q8_0,q9_9")


TREND = [(step, 0.02 * 1.1**number) for number, step in enumerate(range(100, 900, 100))]


def test_a_cost_on_its_trend_is_no_alarm():
    assert off_trend(TREND, 900, 0.02 * 1.1**8) == ""


def test_a_cost_that_leaves_its_trend_is_an_alarm():
    assert "KL 0.5 nats at step 900, where its trend led to 0.0429" in off_trend(TREND, 900, 0.5)


def test_a_noisy_trend_is_judged_by_its_noise():
    noisy = [(step, 0.02 * (3 if number % 2 else 1)) for number, (step, _) in enumerate(TREND)]
    assert off_trend(noisy, 900, 0.09) == ""
    assert off_trend(noisy, 900, 9.0)


@pytest.mark.parametrize("history", [[], TREND[:3]])
def test_too_little_is_known_for_a_trend(history):
    assert off_trend(history, 900, 5.0) == ""


def test_a_negligible_cost_is_never_an_alarm():
    assert off_trend([(step, 1e-9) for step, _ in TREND], 900, 1e-4) == ""


def test_a_resumed_run_remembers_its_trend():
    records = [{"kind": "judge", "quantizer": "i2_s", "step": step, "kl": kl / 1000} for step, kl in TREND]
    found = judged("i2_s", SPEC, model(SPEC), step=900, earlier=records)[0]
    assert found.kl > 0.005
    assert "its trend led to" in found.alarm


@pytest.mark.parametrize("spec", [SPEC, dataclasses.replace(SPEC, tied_embeddings=False)], ids=["tied", "untied"])
def test_the_costs_are_those_of_the_whole_model_s_logits(spec):
    built, other = model(spec), model(spec)
    quantizer = find_quantizers("q8_0")[0].quantizer
    for name, parameter in other.named_parameters():
        if "_proj" in name:
            values = parameter.detach().numpy()
            parameter.data.copy_(torch.from_numpy(quantizer.dequantize(quantizer.quantize(values), values.shape)))
    p, q = (logits(TOKENS[:, :-1]).double().log_softmax(-1) for logits in (built, other))
    nll = [-x.gather(2, TOKENS[:, 1:, None]).mean().item() for x in (p, q)]
    found = judged("q8_0", spec, built, chunk=7)[0]
    assert found.kl == pytest.approx((p.exp() * (p - q)).sum(-1).mean().item(), rel=1e-4)
    assert found.delta_nll == pytest.approx(nll[1] - nll[0], rel=1e-4)
