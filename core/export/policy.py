"""Policy: which quantizer stores which tensor: the contract's policy per class, then overrides by name."""

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from conform.contract.inventory import TensorSpec
from conform.contract.spec import StoragePolicy
from conform.core.errors import PlanError

__all__ = ["ASKED_FOR", "TypeOverride", "parse_override", "storage_choices"]

ASKED_FOR = "quant"
"""What stands in a policy where --quant decides."""


@dataclass(frozen=True, slots=True)
class TypeOverride:
    """`--type PATTERN=QUANT`: tensors whose GGUF name matches, with or without `.weight`, are stored as QUANT."""

    pattern: str
    quant: str

    def matches(self, spec: TensorSpec) -> bool:
        """True when the shell pattern fits the tensor's GGUF name."""
        names = (spec.gguf_name, spec.gguf_name.removesuffix(".weight"))
        return any(fnmatch.fnmatchcase(name, self.pattern) for name in names)

    @property
    def is_glob(self) -> bool:
        """True when the pattern may match tensors that nobody named."""
        return any(character in self.pattern for character in "*?[")


def parse_override(text: str) -> TypeOverride:
    """The override that `PATTERN=QUANT` describes.

    Raises PlanError for anything else.
    """
    pattern, equals, quant = text.rpartition("=")
    if not equals or not pattern.strip() or not quant.strip():
        raise PlanError(f"--type {text}: expected PATTERN=QUANT, such as 'blk.*.attn_v=q8_0'")
    return TypeOverride(pattern.strip(), quant.strip())


def storage_choices(
    specs: Sequence[TensorSpec],
    policy: StoragePolicy,
    quant: str | Mapping[str, str],
    overrides: Sequence[TypeOverride] = (),
) -> dict[str, tuple[str, ...]]:
    """GGUF name → the quantizer that is asked for; of several overrides that match, the last one counts.

    Behind a quantizer that a pattern of several tensors asks for follows what the tensor has without that pattern,
    because the pattern skips what does not fit. `quant` is what the policy's "quant" stands for: one quantizer, or one
    for each GGUF name.
    Raises PlanError for an override that matches no tensor, because it would be dropped in silence.
    """
    for override in overrides:
        if not any(override.matches(spec) for spec in specs):
            names = ", ".join(sorted({_pattern_of(spec) for spec in specs}))
            raise PlanError(f"--type {override.pattern}={override.quant}: matches no tensor; there are {names}")
    choices = {}
    for spec in specs:
        stated = _stated(spec, policy, overrides)
        choices[spec.gguf_name] = tuple(_asked(quant, spec) if name == ASKED_FOR else name for name in stated)
    return choices


def _asked(quant: str | Mapping[str, str], spec: TensorSpec) -> str:
    return quant if isinstance(quant, str) else quant[spec.gguf_name]


def _stated(spec: TensorSpec, policy: StoragePolicy, overrides: Sequence[TypeOverride]) -> Iterator[str]:
    for override in reversed(overrides):
        if override.matches(spec):
            yield override.quant
            if not override.is_glob:
                return
    yield policy.of(spec.storage_class)


def _pattern_of(spec: TensorSpec) -> str:
    return spec.role if spec.layer is None else f"blk.*.{spec.role}"
