"""Flops: what a token of training costs, and what the machine can do at most."""

import time

import torch

from conform.contract.inventory import inventory
from conform.contract.spec import ModelSpec

__all__ = ["flops_per_token", "peak_flops"]

# Dense bfloat16 matrix products per second, from the makers' data sheets.
_GPU_PEAKS = {"H200": 989e12, "H100": 989e12, "GH200": 989e12, "B200": 2250e12, "A100": 312e12, "L40S": 362e12}


def flops_per_token(model: ModelSpec, sequence: int) -> float:
    """Floating-point operations of one token's forward and backward pass, recomputation not counted.

    6 per weight that is multiplied by (the output matrix too, tied or not; the lookup of the embedding not), and
    12 · layers · q_width · sequence / 2 for causal attention.
    """
    linears = sum(t.shape[0] * t.shape[1] for t in inventory(model) if t.storage_class == "linear")
    return 6.0 * (linears + model.vocab * model.hidden) + 6.0 * model.layers * model.q_width * sequence


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Peak operations per second of the device's matrix products: by data sheet for a known GPU, else measured."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known, peak in _GPU_PEAKS.items():
            if known in name and dtype == torch.bfloat16:
                return peak
    size = 1024 if device.type == "cpu" else 8192
    a = torch.ones(size, size, dtype=dtype, device=device)
    # The first few have cold caches, and any of them may meet a busy machine: the fastest counts.
    fastest = min(_seconds(a) for _ in range(32))
    return float(2 * size**3 / fastest)


def _seconds(a: torch.Tensor) -> float:
    start = time.perf_counter()
    _ = a @ a
    if a.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
