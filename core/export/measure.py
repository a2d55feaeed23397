"""Measure: what each quantizer would cost each tensor that the storage policy leaves open."""

from collections.abc import Callable, Mapping, Sequence

from conform.core.errors import PlanError
from conform.core.export.cost import measure_cost
from conform.core.export.mix import Option, choose_mix
from conform.core.export.plan import ExportPlan
from conform.core.export.run import source_values
from conform.core.gguf.write import align

__all__ = ["measure_options", "mix_under"]


def measure_options(
    plans: Sequence[ExportPlan], open_tensors: Sequence[str], progress: Callable[[str], None] | None = None
) -> Mapping[str, Sequence[Option]]:
    """GGUF name → one option of each quantizer that the plans have for it; they differ in the quantizer alone.

    One tensor is in memory at a time; its values are read once.
    Raises CheckpointError, QuantizeError or PluginError.
    """
    wanted = set(open_tensors)
    measured: dict[str, list[Option]] = {}
    for tensors in zip(*(plan.tensors for plan in plans), strict=True):
        name = tensors[0].spec.gguf_name
        if name not in wanted:
            continue
        plans[0].checkpoint.check_finite(tensors[0].spec.name)
        values = source_values(plans[0].checkpoint, tensors[0])
        for tensor in {tensor.codec.name: tensor for tensor in tensors}.values():
            packed = tensor.codec.pack(name, values, tensor.importance)
            decoded = tensor.codec.unpack(name, packed, tensor.spec.shape)
            error = measure_cost(values, decoded, tensor.importance).weighted_errors
            measured.setdefault(name, []).append(Option(tensor.codec.name, align(tensor.nbytes), error))
        if progress is not None:
            progress(name)
    return measured


def mix_under(
    plans: Sequence[ExportPlan], bits_per_weight: float, progress: Callable[[str], None] | None = None
) -> Mapping[str, str]:
    """GGUF name → quantizer: the mix of the plans with the least error in at most so many bits for each weight.

    The bits are counted over all tensor data of the file, as a plan shows them.
    Raises PlanError when no mix is that small.
    """
    open_tensors = _open_tensors(plans)
    first = plans[0]
    fixed = sum(align(tensor.nbytes) for tensor in first.tensors if tensor.spec.gguf_name not in open_tensors)
    smallest = fixed + sum(
        min(align(plan.tensors[index].nbytes) for plan in plans)
        for index, tensor in enumerate(first.tensors)
        if tensor.spec.gguf_name in open_tensors
    )
    allowed = int(bits_per_weight * first.weights / 8)
    if smallest > allowed:
        raise PlanError(
            f"--target-bpw {bits_per_weight:g}: the smallest mix takes {8 * smallest / first.weights:.4f} bits per "
            f"weight, {8 * fixed / first.weights:.4f} of them for tensors that --quant does not decide; "
            "add a smaller quantizer, or store those as another type with --type"
        )
    chosen = choose_mix(measure_options(plans, open_tensors, progress), allowed - fixed)
    return {name: option.quantizer for name, option in chosen.items()}


def _open_tensors(plans: Sequence[ExportPlan]) -> tuple[str, ...]:
    """The tensors that --quant decides: those which the plans store differently."""
    together = zip(*(plan.tensors for plan in plans), strict=True)
    return tuple(each[0].spec.gguf_name for each in together if len({tensor.codec.name for tensor in each}) > 1)
