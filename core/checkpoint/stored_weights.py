"""Stored weights: which tensors of a checkpoint's files make which weight, as its config.json says.

A scale belongs to its weight and is never a tensor of its own: whoever dropped it would change the model.
"""

import re
from collections.abc import Mapping

from conform.contract.quantisation import ScaleUse, Stored
from conform.core.checkpoint.safetensors_header import StoredTensor
from conform.core.checkpoint.safetensors_values import FLOAT_DTYPES
from conform.core.checkpoint.weight import (
    CODES_PER_BYTE,
    BlockScaled,
    CodeScale,
    LooseTernary,
    PackedTernary,
    Plain,
    Weight,
)
from conform.core.errors import CheckpointError

__all__ = ["join_weights"]

_WEIGHT = ".weight"
_PROJECTION = re.compile(r"\.layers\.\d+\..*_proj\.weight")
# What the tensors of a method that is not read are called, by the ends of their names; each names the method.
_FOREIGN = {
    ".qweight": "GPTQ or AWQ",
    ".qzeros": "GPTQ or AWQ",
    ".g_idx": "GPTQ",
    ".SCB": "bitsandbytes (8 bits)",
    ".absmax": "bitsandbytes (4 bits)",
    ".quant_map": "bitsandbytes (4 bits)",
    ".weight_packed": "compressed-tensors",
    ".weight_zero_point": "compressed-tensors",
    ".weight_global_scale": "NVFP4",
    ".weight_scale_2": "NVFP4",
    ".weight_scale_inv": "fp8",
    ".weight_scale": "bitnet, or FP8 of another library",
    ".input_scale": "FP8 with fixed scales of activations",
    ".activation_scale": "FP8 with fixed scales of activations",
}


def join_weights(stored: Mapping[str, StoredTensor], form: Stored) -> dict[str, Weight]:
    """Name → weight: each tensor that is no scale, joined with its own scale if it has one.

    Raises CheckpointError naming the tensor that does not fit the form: a quantised one without its scale, values where
    codes were stated, or what another method has left.
    """
    scale_of = {"bitnet-packed": "_scale", "fp8-blocks": "_scale_inv"}.get(form.weights)
    scales = {name + scale_of for name in stored if name.endswith(_WEIGHT)} & stored.keys() if scale_of else set()
    _refuse_foreign(stored, scales)
    weights = {}
    for name, tensor in stored.items():
        if name in scales:
            continue
        scale = stored.get(f"{name}{scale_of}") if scale_of else None
        weights[name] = _scaled(tensor, scale, form) if scale else _plain(tensor, form)
    return weights


def _refuse_foreign(stored: Mapping[str, StoredTensor], scales: set[str]) -> None:
    for name, tensor in stored.items():
        for end, method in _FOREIGN.items():
            if name.endswith(end) and name not in scales:
                raise CheckpointError(
                    f"{tensor.path}: {name}: belongs to weights quantised by {method}, but config.json does not say so "
                    "in a way that conform reads; give the checkpoint that they were quantised from"
                )


def _plain(tensor: StoredTensor, form: Stored) -> Weight:
    if form.weights in ("bitnet-packed", "fp8-blocks") and tensor.name.endswith(_WEIGHT):
        if tensor.dtype not in FLOAT_DTYPES:
            raise _unfit(tensor, form, f"{tensor.dtype} without a scale")
        if _PROJECTION.search(tensor.name) and not _unconverted(tensor.name, form):
            raise _unfit(tensor, form, f"{tensor.dtype} without a scale, as if it were not quantised")
    return Weight(tensor, tensor.shape, tensor.dtype, Plain(tensor))


def _unconverted(name: str, form: Stored) -> bool:
    """As transformers reads the list: from the start or to the end of the module's name; patterns are not read."""
    module = name.removesuffix(_WEIGHT)
    return any(f"{module}.".startswith(f"{listed}.") or module.endswith(listed) for listed in form.unconverted)


def _scaled(tensor: StoredTensor, scale: StoredTensor, form: Stored) -> Weight:
    if len(tensor.shape) != 2:
        raise _unfit(tensor, form, f"shape {tensor.shape}, which is not a matrix")
    if scale.dtype not in FLOAT_DTYPES:
        raise _unfit(scale, form, f"dtype {scale.dtype}")
    if form.block is not None:
        return _block_scaled(tensor, scale, form, form.block)
    return _ternary(tensor, scale, form, form.scale or "multiplies")


def _block_scaled(tensor: StoredTensor, scales: StoredTensor, form: Stored, block: tuple[int, int]) -> Weight:
    if tensor.dtype != "F8_E4M3":
        raise _unfit(tensor, form, f"dtype {tensor.dtype}")
    rows, cols = tensor.shape
    expected = (-(-rows // block[0]), -(-cols // block[1]))
    if scales.shape != expected:
        raise _unfit(scales, form, f"shape {scales.shape}; blocks of {block[0]} × {block[1]} need {expected}")
    return Weight(tensor, tensor.shape, "F32", BlockScaled(tensor, scales, block))


def _ternary(tensor: StoredTensor, scale: StoredTensor, form: Stored, use: ScaleUse) -> Weight:
    if scale.shape not in ((), (1,)):
        raise _unfit(scale, form, f"shape {scale.shape}; a ternary matrix has one scale")
    rows, cols = tensor.shape
    if tensor.dtype == "U8":
        values = PackedTernary(tensor, CodeScale(scale, use))
        return Weight(tensor, (CODES_PER_BYTE * rows, cols), "F32", values)
    if tensor.dtype not in FLOAT_DTYPES:
        raise _unfit(tensor, form, f"dtype {tensor.dtype}")
    if use == "divides":
        raise _unfit(tensor, form, f"dtype {tensor.dtype}, though linear_class = bitlinear means packed codes")
    return Weight(tensor, tensor.shape, "F32", LooseTernary(tensor, CodeScale(scale, use)))


def _unfit(tensor: StoredTensor, form: Stored, found: str) -> CheckpointError:
    method = form.weights.partition("-")[0]
    return CheckpointError(
        f"{tensor.path}: {tensor.name}: found {found}, but config.json says that the weights are quantised by "
        f"{method}; one of the two is not of this model"
    )
