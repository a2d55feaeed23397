"""Fit: which of the quantizers that a tensor may have takes its rows, and what to say where the first does not."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from conform.contract.inventory import TensorSpec
from conform.core.catalog import Catalog
from conform.core.errors import PlanError, PluginError, QuantizeError

__all__ = ["Fit", "Misfit", "describe_misfits", "fit_storage"]

# What an error offers instead, from small to large; the last takes rows of any length.
_OFFERS = ("iq4_nl", "q8_0", "f16")


@dataclass(frozen=True, slots=True)
class Misfit:
    """A quantizer that does not take a tensor's rows, and why."""

    quantizer: str
    reason: str


@dataclass(frozen=True, slots=True)
class Fit:
    """The quantizer that stores a tensor, and those before it that do not take its rows."""

    quantizer: str
    skipped: tuple[Misfit, ...] = ()


def fit_storage(
    specs: Sequence[TensorSpec], choices: Mapping[str, Sequence[str]], catalog: Catalog, fallbacks: Sequence[str] = ()
) -> dict[str, Fit]:
    """GGUF name → the first of its choices, or else of the fallbacks, that takes the tensor's rows.

    Raises PlanError naming every tensor that none of them takes, and PluginError for an unknown quantizer or one that
    breaks its promises.
    """
    for name in fallbacks:
        catalog.codec(name)  # a misspelled one is an error even where none is needed
    fits: dict[str, Fit] = {}
    unfit: dict[str, tuple[Misfit, ...]] = {}
    for spec in specs:
        skipped: list[Misfit] = []
        for quantizer in dict.fromkeys((*choices[spec.gguf_name], *fallbacks)):
            reason = _reason(spec, quantizer, catalog)
            if not reason:
                fits[spec.gguf_name] = Fit(quantizer, tuple(skipped))
                break
            skipped.append(Misfit(quantizer, reason))
        else:
            unfit[spec.gguf_name] = tuple(skipped)
    if unfit:
        raise PlanError(_sentence(specs, unfit, catalog))
    return fits


def describe_misfits(fits: Mapping[str, Fit], specs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """Which tensors are not stored by the quantizer that was asked for, and why: one sentence for each reason."""
    groups = _grouped({name: fit.skipped for name, fit in fits.items() if fit.skipped})
    return tuple(
        f"{_patterns(names, specs)}: not stored as {' or '.join(misfit.quantizer for misfit in misfits)}, because "
        f"{_reasons(misfits)}"
        for misfits, names in groups.items()
    )


def _grouped(unfit: Mapping[str, tuple[Misfit, ...]]) -> Mapping[tuple[Misfit, ...], list[str]]:
    groups: dict[tuple[Misfit, ...], list[str]] = {}
    for name, misfits in unfit.items():
        groups.setdefault(misfits, []).append(name)
    return groups


def _patterns(names: Iterable[str], specs: Sequence[TensorSpec]) -> str:
    return ", ".join(_patterns_of(names, specs))


def _reasons(misfits: Iterable[Misfit]) -> str:
    return " and ".join(misfit.reason for misfit in misfits)


def _patterns_of(names: Iterable[str], specs: Sequence[TensorSpec]) -> list[str]:
    """As few names as say the same: `blk.*.ROLE` where all layers of a role are among the names."""
    wanted = set(names)
    by_role: dict[str, set[str]] = {}
    for spec in specs:
        by_role.setdefault(spec.role, set()).add(spec.gguf_name)
    patterns: dict[str, None] = {}
    for spec in specs:
        if spec.gguf_name in wanted:
            whole = spec.layer is not None and by_role[spec.role] <= wanted
            patterns[f"blk.*.{spec.role}" if whole else spec.gguf_name.removesuffix(".weight")] = None
    return list(patterns)


def _reason(spec: TensorSpec, quantizer: str, catalog: Catalog) -> str:
    """Why the quantizer does not take the tensor's rows, "" when it does."""
    codec = catalog.codec(quantizer)
    try:
        codec.nbytes(spec.shape)
    except QuantizeError as error:
        return str(error)
    except PluginError as error:
        raise PluginError(f"{spec.gguf_name}: {error}") from error
    return ""


def _sentence(specs: Sequence[TensorSpec], unfit: Mapping[str, tuple[Misfit, ...]], catalog: Catalog) -> str:
    described = "; ".join(
        f"{_patterns(names, specs)}: {_reasons(misfits)}" for misfits, names in _grouped(unfit).items()
    )
    offer = _offer([spec for spec in specs if spec.gguf_name in unfit], catalog)
    types = " ".join(f"--type '{pattern}={offer}'" for pattern in _patterns_of(unfit, specs))
    count = f"{len(unfit)} tensors do" if len(unfit) > 1 else "1 tensor does"
    return f"{count} not fit: {described}; store them as another type, with --fallback {offer}, or with {types}"


def _offer(specs: Sequence[TensorSpec], catalog: Catalog) -> str:
    """The smallest of the usual types that takes all of these tensors."""
    return next(
        (name for name in _OFFERS[:-1] if not any(_reason(spec, name, catalog) for spec in specs)),
        _OFFERS[-1],
    )
