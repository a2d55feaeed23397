"""Judge: what each quantisation would cost the model, measured while it trains.

The linear weights are quantised and decoded, and the decoded model runs beside the model itself on the same held-out
text. When training leads to weights that a quantisation cannot hold, that shows at that step and not at the end.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from conform.contract.inventory import inventory
from conform.contract.spec import ModelSpec
from conform.core.codec import Codec
from conform.core.errors import PluginError, QuantizeError
from conform.core.i2_s.format import I2_S
from conform.plugins.host import load_registry
from conform.trainer.distributed.fsdp import whole
from conform.trainer.distributed.world import World
from conform.trainer.model.model import Llama
from conform.trainer.model.ternary import activation_codes, activation_scale, effective_weight

__all__ = ["Judge", "Judgement", "find_quantizers", "off_trend"]

_HISTORY = 8
_CHUNK = 512
_NEGLIGIBLE = 0.005  # nats: below it no trend matters


@dataclass(frozen=True, slots=True)
class Judgement:
    """The cost of one quantisation in nats per token: KL divergence (mean, 99th percentile) and loss added.

    `alarm` is a sentence when the cost leaves its trend or the weights cannot be quantised, else "".
    """

    quantizer: str
    kl: float
    kl_p99: float
    delta_nll: float
    alarm: str = ""

    def to_json(self) -> dict[str, Any]:
        """The fields by name; NaN becomes null."""
        return {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in asdict(self).items()
        }


def find_quantizers(names: str) -> tuple[Codec, ...]:
    """The quantizers of a comma-separated list, guarded.

    Raises PluginError for an unknown name, listing those that exist.
    """
    registry = load_registry() if names else None
    return tuple(registry.codec(name.strip()) for name in names.split(",")) if registry else ()


class Judge:
    """Remembers what it found; `earlier` are the records of a run that is resumed.

    No more than `chunk` positions have logits at once.
    """

    def __init__(
        self,
        codecs: Sequence[Codec],
        spec: ModelSpec,
        earlier: Iterable[Mapping[str, Any]],
        *,
        chunk: int = _CHUNK,
    ) -> None:
        self._codecs, self._spec, self._chunk = codecs, spec, chunk
        self._history: dict[str, list[tuple[int, float]]] = {}
        for record in earlier:
            if record["kind"] == "judge" and record["kl"] is not None:
                self._history.setdefault(record["quantizer"], []).append((record["step"], record["kl"]))

    def judge(self, model: Llama, tokens: Tensor, step: int, world: World) -> list[Judgement]:
        """What each quantizer costs over tokens (B, T+1); computed in the first process, [] in the others."""
        weights = whole(model.named_parameters(), lambda _: world.main)
        found = self._all(weights, tokens.to(world.device), step) if world.main else []
        world.barrier()
        return found

    @torch.no_grad()
    def _all(self, weights: Mapping[str, Tensor], tokens: Tensor, step: int) -> list[Judgement]:
        ours = _states(self._spec, weights, tokens)
        return [self._one(codec, weights, tokens, ours, step) for codec in self._codecs]

    def _one(self, codec: Codec, weights: Mapping[str, Tensor], tokens: Tensor, ours: Tensor, step: int) -> Judgement:
        try:
            decoded = _decoded(self._spec, weights, codec)
        # A run of days must not end because a plugin that merely observes it is broken.
        except (QuantizeError, PluginError) as error:
            nan = math.nan
            return Judgement(codec.name, nan, nan, nan, f"step {step}: {codec.name} is impossible: {error}")
        spec = replace(self._spec, linear="dense")
        theirs = _states(spec, decoded, tokens, int8=codec.layout.ggml_type == I2_S)
        output = weights["model.embed_tokens.weight" if spec.tied_embeddings else "lm_head.weight"]
        divergence, added = _compared(ours, theirs, output.to(ours.device), tokens[:, 1:].flatten(), self._chunk)
        history = self._history.setdefault(codec.name, [])
        kl = float(divergence.mean())
        alarm = off_trend(history, step, kl)
        history.append((step, kl))
        p99 = float(divergence.quantile(0.99))
        return Judgement(codec.name, kl, p99, float(added.mean()), f"{codec.name}: {alarm}" if alarm else "")


def off_trend(history: Sequence[tuple[int, float]], step: int, kl: float) -> str:
    """A sentence when the KL divergence lies far above the line through the logarithms of the last eight, else "".

    Far means more than a factor of two, and more than four standard deviations of those eight from their line.
    """
    recent = [(at, value) for at, value in history[-_HISTORY:] if value > 0]
    if len(recent) < 4 or kl < _NEGLIGIBLE:
        return ""
    steps, logs = np.array([at for at, _ in recent], float), np.log([value for _, value in recent])
    slope, start = np.polyfit(steps, logs, 1)
    expected = slope * step + start
    deviation = float(np.std(logs - (slope * steps + start), ddof=2))
    if math.log(kl) <= expected + max(math.log(2), 4 * deviation):
        return ""
    return (
        f"KL {kl:.3g} nats at step {step}, where its trend led to {math.exp(expected):.3g}; it may become unexportable"
    )


def _decoded(spec: ModelSpec, weights: Mapping[str, Tensor], codec: Codec) -> dict[str, Tensor]:
    decoded = dict(weights)
    for tensor in inventory(spec):
        if tensor.storage_class == "linear":
            # A ternary layer is exported as what it computes with, not as its latent weights.
            source = weights[tensor.name]
            values = (effective_weight(source) if spec.linear == "ternary" else source).numpy()
            packed = codec.pack(tensor.name, values)
            decoded[tensor.name] = torch.from_numpy(codec.unpack(tensor.name, packed, values.shape))
    return decoded


def _states(spec: ModelSpec, weights: Mapping[str, Tensor], tokens: Tensor, *, int8: bool = False) -> Tensor:
    """What enters the output layer for the inputs of tokens (B, T+1): (B·T, H) float32, on the device of the tokens."""
    with torch.device("meta"):
        model = Llama(spec)
        if int8:
            _use_int8_activations(model)
    model.load_state_dict({name: weight.to(tokens.device) for name, weight in weights.items()}, assign=True)
    return torch.cat([model.model(sequence[None], torch.float32)[0] for sequence in tokens[:, :-1]])


def _use_int8_activations(model: Llama) -> None:
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name != "lm_head":
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, _Int8Linear(module.in_features, module.out_features))


class _Int8Linear(nn.Linear):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        a = activation_scale(x)
        return F.linear(activation_codes(x, a), self.weight) / a


def _compared(ours: Tensor, theirs: Tensor, output: Tensor, targets: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """KL divergence and loss added at each of N positions, float64."""
    divergences, added = [], []
    chunks = (torch.split(tensor, chunk) for tensor in (ours, theirs, targets))
    for our, their, target in zip(*chunks, strict=True):
        p, q = (F.linear(states, output).double().log_softmax(-1) for states in (our, their))
        divergences.append((p.exp() * (p - q)).sum(-1))
        added.append((p - q).gather(1, target[:, None]).squeeze(1))
    return torch.cat(divergences), torch.cat(added)
