"""weights: every tensor of the file against the source after its declared transform, and as the runtime decodes it."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from conform.contract.finding import Finding
from conform.core.gguf.types import I2_S, ggml_type
from conform.core.i2_s.ternary import effective, exact_scale
from conform.core.quantizer import Float32
from conform.parity.rungs.ceilings import ceiling_of_type
from conform.parity.verdict import Measurement, RungResult, judged, not_run

__all__ = ["StoredTensor", "StoredWeights", "judge_weights"]

_F16_SCALE = 2.0**-11
_MISSING = "none"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of the contract, of the file, or of both.

    `expected` is what the exporter was to store, None where the contract lists no such tensor or the file lacks it;
    `type_id` and `decoded` are what the file holds, None where it lacks the tensor. A `tolerance` is the relative error
    allowed to values that were computed, from a source that holds none.
    """

    name: str
    expected: Float32 | None
    type_id: int | None
    decoded: Float32 | None
    tolerance: float = 0.0


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """The tensors one after another, so that one is held at a time, and the sha256 of each as the runtime decodes it.

    `digests` is empty where the runtime cannot tell. `ternary` says what the contract's linears are.
    """

    tensors: Iterable[StoredTensor]
    digests: Mapping[str, str | None]
    ternary: bool


@dataclass(frozen=True, slots=True)
class _Compared:
    """One tensor: the relative error beside its ceiling when the type is lossy, else the largest difference."""

    name: str
    kind: str
    exact: bool
    error: float
    ceiling: float

    @property
    def passed(self) -> bool:
        return self.error <= self.ceiling

    def finding(self) -> Finding:
        if self.kind == _MISSING:
            return Finding("error", self.name, "this tensor", "none")
        if self.exact:
            expected = f"the source's values as {self.kind}, bit for bit"
            return Finding("error", self.name, expected, f"off by {self.error:.3g}")
        return Finding("error", self.name, f"a relative error of at most {self.ceiling:g}", f"{self.error:.3g}")


def judge_weights(weights: StoredWeights | None) -> RungResult:
    """Bit for bit for casts and for i2_s of ternary weights; under the type's ceiling otherwise."""
    if weights is None:
        return not_run("weights", "no checkpoint to compare the file's tensors with; give --checkpoint")
    compared: list[_Compared] = []
    ours: dict[str, str] = {}
    for tensor in weights.tensors:
        compared += _compare(tensor, weights.ternary)
        if tensor.name in weights.digests and tensor.decoded is not None:
            ours[tensor.name] = _sha256(tensor.decoded)
    misread = list(_misread(weights.digests, ours))
    findings = [tensor.finding() for tensor in compared if not tensor.passed] + misread
    measured = list(_measurements(compared, weights.digests, misread))
    hashed = len(weights.digests)
    note = f"{hashed} tensors hashed as the runtime decodes them"
    if not hashed:
        note = "the runtime does not say how it decodes; the implementation rung judges that"
    return judged("weights", len(compared) + hashed, "tensors", measured, findings, [note])


def _measurements(
    compared: Sequence[_Compared], digests: Mapping[str, str | None], misread: Sequence[Finding]
) -> Iterator[Measurement]:
    unequal = sum(not tensor.passed for tensor in compared if tensor.exact)
    yield Measurement("tensors that are not bit-equal", unequal, 0)
    lossy = [tensor for tensor in compared if not tensor.exact]
    if lossy:
        worst = max(lossy, key=lambda tensor: tensor.error / tensor.ceiling)
        name = f"relative error, worst at {worst.name}"
        yield Measurement(name, worst.error, worst.ceiling, f"ceiling of {worst.kind}")
    if digests:
        yield Measurement("tensors that the runtime decodes otherwise", len(misread), 0)


def _compare(tensor: StoredTensor, ternary: bool) -> Iterator[_Compared]:
    """One comparison for each tensor of the contract; none for a tensor that only the file has."""
    if tensor.type_id is None or tensor.decoded is None:
        yield _Compared(tensor.name, _MISSING, True, float("inf"), 0.0)
        return
    if tensor.expected is None:
        return
    known = ggml_type(tensor.type_id)
    kind = known.name if known else f"type {tensor.type_id}"
    if tensor.tolerance:
        error = _relative_error(tensor.expected, tensor.decoded)
        yield _Compared(tensor.name, f"computed {kind}", False, error, tensor.tolerance)
        return
    exact = _exact(kind, tensor.type_id, tensor.expected, ternary)
    if exact is not None:
        yield _Compared(tensor.name, kind, True, _worst_difference(exact, tensor.decoded), 0.0)
    else:
        error, ceiling = _relative_error(tensor.expected, tensor.decoded), _ceiling(kind, tensor.type_id, ternary)
        yield _Compared(tensor.name, kind, False, error, ceiling)


def _exact(kind: str, type_id: int, expected: Float32, ternary: bool) -> Float32 | None:
    """The values that the type must hold bit for bit; None for a type that is lossy on these."""
    if type_id != I2_S:
        return _cast(kind, expected)
    if exact_scale(expected) is not None or not expected.any():
        return expected
    return effective(expected) if ternary else None


def _ceiling(kind: str, type_id: int, ternary: bool) -> float:
    """Ternary types hold ternary weights up to the rounding of their f16 scales."""
    if ternary and kind in {"tq1_0", "tq2_0"}:
        return _F16_SCALE
    return ceiling_of_type(type_id).relative_error


def _cast(kind: str, values: Float32) -> Float32 | None:
    """What a plain cast to that type makes of the values; None for a type that is not a cast."""
    if kind == "f32":
        return values
    if kind == "f16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    if kind == "bf16":
        import torch

        rounded: Float32 = torch.from_numpy(np.array(values)).bfloat16().float().numpy()
        return rounded
    return None


def _worst_difference(expected: Float32, found: Float32) -> float:
    """0 when the values are equal, zeros of either sign included; else the largest difference."""
    if expected.shape != found.shape:
        return float("inf")
    largest = float(np.abs(expected.astype(np.float64) - found).max())
    return largest if np.isfinite(largest) else float("inf")


def _relative_error(expected: Float32, found: Float32) -> float:
    if expected.shape != found.shape or not np.isfinite(found).all():
        return float("inf")
    difference = np.square(expected.astype(np.float64) - found).mean()
    size = np.square(expected.astype(np.float64)).mean()
    return float(np.sqrt(difference / size)) if size else float("inf" if difference else 0.0)


def _sha256(values: Float32) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, dtype="<f4").data).hexdigest()


def _misread(digests: Mapping[str, str | None], ours: Mapping[str, str]) -> Iterator[Finding]:
    """Tensors whose values the runtime decodes otherwise."""
    for name, digest in digests.items():
        if digest != ours[name]:
            expected, found = f"decoded values of sha256 {ours[name]}", f"sha256 {digest}" if digest else "no digest"
            yield Finding("error", name, expected, found, "as the runtime decodes it")
