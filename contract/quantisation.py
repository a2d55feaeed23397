"""Quantisation: how a Hugging Face checkpoint stores its weights, as `quantization_config` in config.json says.

plain           the values are the weights
bitnet-online   the values are latent weights: each linear layer ternarises them by their absmean as it computes
bitnet-packed   the linear layers hold ternary codes, four in a byte or one in each value, and a `weight_scale`
fp8-blocks      the linear layers hold FP8 (E4M3) values, with one `weight_scale_inv` for each block of rows × columns

Source of the forms and their defaults: transformers 5.24, utils/quantization_config.py, integrations/bitnet.py and
integrations/finegrained_fp8.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from conform.contract.errors import ContractError
from conform.contract.mapping import shown

__all__ = ["PLAIN", "ScaleUse", "Stored", "StoredWeights", "stored_weights"]

StoredWeights = Literal["plain", "bitnet-online", "bitnet-packed", "fp8-blocks"]
ScaleUse = Literal["multiplies", "divides"]


@dataclass(frozen=True, slots=True)
class Stored:
    """How the linear layers are stored; what is not quantised is stored plainly.

    `scale` says whether a `weight_scale` multiplies the codes or divides them, for bitnet-packed alone; `block` is the
    rows and columns that share a scale, for fp8-blocks alone; `unconverted` names the modules stored plainly.
    """

    weights: StoredWeights
    scale: ScaleUse | None = None
    block: tuple[int, int] | None = None
    unconverted: tuple[str, ...] = ()


PLAIN: Final = Stored("plain")

_BITNET_KEYS = ("linear_class", "quantization_mode", "modules_to_not_convert", "use_rms_norm", "rms_norm_eps")
_FP8_KEYS = (
    "activation_scheme",
    "weight_block_size",
    "dequantize",
    "modules_to_not_convert",
    "ignored_layers",
    "modules_to_convert",
    "scale_fmt",
    "expert_dtype",
    "fmt",
)
# Beside lm_head, what a BitNet configuration may list as unconverted holds no linear layer of a block.
_NO_LINEAR_OF_A_BLOCK = ("lm_head", "model.embed_tokens", "embed_tokens", "model.norm", "norm")


def stored_weights(config: Mapping[str, Any], where: str) -> Stored:
    """How the weights beside this config.json are stored; `where` names the file in errors.

    Raises ContractError naming the method, or the key of `quantization_config`, that conform cannot read.
    """
    settings = config.get("quantization_config")
    if settings is None:
        return PLAIN
    place = f"{where}: quantization_config"
    if not isinstance(settings, Mapping):
        raise ContractError(f"{place} = {shown(settings)}: expected a JSON object or null")
    method = settings.get("quant_method")
    readers: Mapping[object, Callable[[Mapping[str, Any], str], Stored]] = {"bitnet": _bitnet, "fp8": _fp8}
    if not isinstance(method, str) or method not in readers:
        raise ContractError(
            f"{place}.quant_method = {shown(method)}: expected {' or '.join(map(str, readers))}; "
            "export the checkpoint that these weights were quantised from, or dequantise them with the library that "
            "made them"
        )
    return readers[method](settings, place)


def _bitnet(settings: Mapping[str, Any], place: str) -> Stored:
    _refuse_unknown(settings, _BITNET_KEYS, place)
    _expect(settings, "use_rms_norm", (False,), place, "a contract has no norm before each linear layer")
    linear = _choice(settings, "linear_class", ("bitlinear", "autobitlinear"), place)
    mode = _choice(settings, "quantization_mode", ("offline", "online"), place)
    unconverted = _names(settings, "modules_to_not_convert", place)
    _refuse_other_mixtures(unconverted, place)
    if mode == "offline":
        # BitLinear divides by its scale and AutoBitLinear multiplies with it.
        return Stored("bitnet-packed", "divides" if linear == "bitlinear" else "multiplies", None, unconverted)
    if linear == "bitlinear":
        raise ContractError(
            f"{place}: quantization_mode = 'online' beside linear_class = 'bitlinear', which holds packed weights: "
            "expected 'autobitlinear', or 'offline'"
        )
    return Stored("bitnet-online", None, None, unconverted)


def _refuse_other_mixtures(unconverted: tuple[str, ...], place: str) -> None:
    """Pass when all linear layers of the blocks are ternary and the output is not, which is what a contract says."""
    others = [name for name in unconverted if name not in _NO_LINEAR_OF_A_BLOCK]
    if others or "lm_head" not in unconverted:
        raise ContractError(
            f"{place}.modules_to_not_convert = {shown(list(unconverted))}: expected ['lm_head'] or null; a contract "
            "makes all linear layers ternary and the output none"
        )


def _fp8(settings: Mapping[str, Any], place: str) -> Stored:
    _refuse_unknown(settings, _FP8_KEYS, place)
    _expect(settings, "activation_scheme", ("dynamic",), place, "a contract has no fixed scales of activations")
    _expect(settings, "scale_fmt", ("float",), place, "scales of other formats cannot be read")
    _expect(settings, "expert_dtype", ("fp8",), place, "a contract has no experts")
    _expect(settings, "fmt", ("e4m3",), place, "other FP8 formats cannot be read")
    _expect(settings, "modules_to_convert", (None, []), place, "a contract quantises no other modules in FP8")
    _expect(settings, "dequantize", (False, True), place, "")
    names = [_names(settings, key, place) for key in ("modules_to_not_convert", "ignored_layers") if key in settings]
    if len(names) == 2 and set(names[0]) != set(names[1]):
        raise ContractError(f"{place}: modules_to_not_convert and ignored_layers differ: expected one list")
    return Stored("fp8-blocks", None, _block(settings, place), names[0] if names else ("lm_head",))


def _block(settings: Mapping[str, Any], place: str) -> tuple[int, int]:
    size = settings.get("weight_block_size", [128, 128])
    if not isinstance(size, list) or len(size) != 2 or not all(type(n) is int and 0 < n < 1 << 31 for n in size):
        raise ContractError(
            f"{place}.weight_block_size = {shown(size)}: expected two whole numbers above zero, rows and columns"
        )
    return size[0], size[1]


def _refuse_unknown(settings: Mapping[str, Any], known: tuple[str, ...], place: str) -> None:
    unknown = sorted(key[:80] for key in settings if key not in (*known, "quant_method"))
    if unknown:
        raise ContractError(f"{place}: unknown key {', '.join(unknown[:8])}; known are {', '.join(known)}")


def _expect(settings: Mapping[str, Any], key: str, accepted: tuple[object, ...], place: str, why: str) -> None:
    value = settings.get(key, accepted[0])
    if not any(type(value) is type(good) and value == good for good in accepted):
        reason = f"; {why}" if why else ""
        raise ContractError(f"{place}.{key} = {shown(value)}: expected {' or '.join(map(repr, accepted))}{reason}")


def _choice(settings: Mapping[str, Any], key: str, choices: tuple[str, ...], place: str) -> str:
    """The setting, which is the first choice where it is absent."""
    _expect(settings, key, choices, place, "")
    return str(settings.get(key, choices[0]))


def _names(settings: Mapping[str, Any], key: str, place: str) -> tuple[str, ...]:
    """The modules listed under that key; the library leaves out the output where the list is absent or null."""
    names = settings.get(key)
    if names is None:
        return ("lm_head",)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ContractError(f"{place}.{key} = {shown(names)}: expected a list of module names or null")
    return tuple(names)
