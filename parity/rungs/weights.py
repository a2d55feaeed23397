"""weights: every tensor of the file against the source after its declared transform, and as the runtime decodes it."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from conform.contract.finding import Finding
from conform.contract.inventory import inventory
from conform.core.export.transform import transform_of
from conform.core.gguf.types import I2_S, ggml_type
from conform.core.i2_s.ternary import effective
from conform.core.quantizer import Float32
from conform.parity.evidence import Evidence, Source
from conform.parity.rungs.ceilings import ceiling_of_type
from conform.parity.verdict import Measurement, RungResult, judged, not_run

__all__ = ["judge_weights"]

_F16_SCALE = 2.0**-11


@dataclass(frozen=True, slots=True)
class _Compared:
    """One tensor: relative error over its ceiling when the type is lossy, else whether the bits are equal."""

    name: str
    kind: str
    exact: bool
    error: float
    ceiling: float

    @property
    def passed(self) -> bool:
        return self.error <= self.ceiling


def judge_weights(evidence: Evidence) -> RungResult:
    """Bit for bit for casts and for i2_s of ternary weights; under the type's ceiling otherwise."""
    hashed, wrong = _judge_runtime_decoder(evidence)
    source = evidence.subject.source
    if source is None:
        return not_run("weights", "no checkpoint to compare the file's tensors with; give --checkpoint")
    compared = list(_compare(evidence, source))
    findings = [_finding(tensor) for tensor in compared if not tensor.passed] + wrong
    lossy = [tensor for tensor in compared if not tensor.exact]
    unequal = sum(not tensor.passed for tensor in compared if tensor.exact)
    measured = [Measurement("tensors that are not bit-equal", unequal, 0)]
    if lossy:
        worst = max(lossy, key=lambda tensor: tensor.error / tensor.ceiling)
        how = f"ceiling of {worst.kind}"
        measured.append(Measurement(f"relative error, worst at {worst.name}", worst.error, worst.ceiling, how))
    if hashed:
        measured.append(Measurement("tensors that the runtime decodes otherwise", len(wrong), 0))
        note = f"{hashed} tensors hashed as the runtime decodes them"
    else:
        note = "the runtime does not tell how it decodes; the implementation rung judges that"
    return judged("weights", len(compared) + hashed, "tensors", measured, findings, [note])


def _compare(evidence: Evidence, source: Source) -> Iterator[_Compared]:
    for spec in inventory(source.contract.model):
        info = evidence.subject.file.tensors.get(spec.gguf_name)
        if info is None:
            yield _Compared(spec.gguf_name, "none", True, float("inf"), 0.0)
            continue
        kind = ggml_type(info.ggml_type)
        name = kind.name if kind else f"type {info.ggml_type}"
        expected = transform_of(source.contract.model, spec).apply(source.checkpoint.read(spec.name))
        found = evidence.weights.decoded(spec.gguf_name)
        cast = _cast(name, expected)
        if cast is None and info.ggml_type == I2_S:
            ternary = effective(expected)
            must_be_exact = source.contract.model.linear == "ternary" or np.array_equal(ternary, expected)
            cast = ternary if must_be_exact else None
        if cast is not None:
            yield _Compared(spec.gguf_name, name, True, _worst_difference(cast, found), 0.0)
        else:
            ceiling = _ceiling(source, info.ggml_type, name)
            yield _Compared(spec.gguf_name, name, False, _relative_error(expected, found), ceiling)


def _ceiling(source: Source, type_id: int, name: str) -> float:
    """Ternary types hold ternary weights up to the rounding of their f16 scales."""
    if source.contract.model.linear == "ternary" and name in {"tq1_0", "tq2_0"}:
        return _F16_SCALE
    return ceiling_of_type(type_id).relative_error


def _cast(name: str, values: Float32) -> Float32 | None:
    """What a plain cast to that type makes of the values; None for a type that is no cast."""
    if name == "f32":
        return values
    if name == "f16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    if name == "bf16":
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


def _finding(tensor: _Compared) -> Finding:
    if tensor.kind == "none":
        return Finding("error", tensor.name, "this tensor", "none")
    if tensor.exact:
        return Finding(
            "error", tensor.name, f"the source's values as {tensor.kind}, bit for bit", f"off by {tensor.error:.3g}"
        )
    return Finding("error", tensor.name, f"a relative error of at most {tensor.ceiling:g}", f"{tensor.error:.3g}")


def _judge_runtime_decoder(evidence: Evidence) -> tuple[int, list[Finding]]:
    """How many tensors the runtime hashed as it decodes them, and those whose hash is not ours."""
    names = list(evidence.subject.file.tensors)
    runtime = evidence.subject.runtime
    if not names or runtime.decoded_sha256(names[0]) is None:
        return 0, []
    digests = evidence.side_by_side("hashing tensors", names, runtime.decoded_sha256)
    findings = []
    for name, digest in zip(names, digests, strict=True):
        ours = hashlib.sha256(np.ascontiguousarray(evidence.weights.decoded(name), dtype="<f4").data).hexdigest()
        if digest != ours:
            found = f"sha256 {digest}" if digest else "no digest"
            findings.append(
                Finding("error", name, f"decoded values of sha256 {ours}", found, "as the runtime decodes it")
            )
    return len(names), findings
