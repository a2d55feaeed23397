"""Tuning: the choices that a quantizer leaves to the user."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

from conform.core.codec import Codec
from conform.core.errors import PlanError
from conform.core.i2_s.format import TernaryScale
from conform.core.quantizer import Effort, Quantizer, Tunable

__all__ = ["TernaryScaled", "Tuning"]


@runtime_checkable
class TernaryScaled(Protocol):
    """A quantizer that ternarises, by a rule that can be chosen."""

    def with_scale(self, ternary_scale: TernaryScale) -> Quantizer:
        """The same quantizer, scaling by that rule; its layout is the same."""
        ...


@dataclass(frozen=True, slots=True)
class Tuning:
    """What --effort and --ternary-scale choose."""

    effort: Effort = "default"
    ternary_scale: TernaryScale = "absmean"

    def apply(self, codec: Codec) -> Codec:
        """The codec, with its quantizer tuned as far as it can be."""
        if isinstance(codec.quantizer, Tunable):
            codec = codec.tuned(partial(codec.quantizer.with_effort, self.effort))
        if isinstance(codec.quantizer, TernaryScaled):
            codec = codec.tuned(partial(codec.quantizer.with_scale, self.ternary_scale))
        return codec

    def check(self, codecs: Sequence[Codec]) -> None:
        """Pass when every choice that differs from the default concerns one of the codecs.

        Raises PlanError otherwise, because the choice would be dropped in silence.
        """
        names = ", ".join(codec.name for codec in codecs)
        scaled = any(isinstance(codec.quantizer, TernaryScaled) for codec in codecs)
        if self.ternary_scale != "absmean" and not scaled:
            raise PlanError(f"--ternary-scale {self.ternary_scale}: none of {names} ternarises")
