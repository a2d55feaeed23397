"""Export rope: what of a contract's RoPE scaling a GGUF file cannot say, as runtimes read it.

The facts are those of llama.cpp (src/llama-model.cpp, src/llama-context.cpp, src/models/), which other runtimes follow.
"""

from collections.abc import Iterator

from conform.contract.finding import Finding
from conform.contract.rope import yarn_range
from conform.contract.spec import ModelSpec, RopeScaling

__all__ = ["check_rope"]

# llama.cpp reads `yarn_beta_fast` and `yarn_beta_slow` for a few architectures, none of which a contract can have.
_BETAS = {"beta_fast": 32.0, "beta_slow": 1.0}


def check_rope(model: ModelSpec) -> Iterator[Finding]:
    """Everything that runtimes would compute in another way than the contract says, whatever the file states."""
    scaling = model.rope_scaling
    if scaling is None:
        return
    if scaling.kind == "llama3" and model.architecture != "llama":
        hint = f"runtimes read rope_freqs.weight for architecture llama, not for {model.architecture}"
        yield Finding("error", "model.rope_scaling.kind", "linear or yarn", "llama3", hint)
    if scaling.kind == "yarn":
        yield from _check_yarn(model, scaling)


def _check_yarn(model: ModelSpec, scaling: RopeScaling) -> Iterator[Finding]:
    for name, value in _BETAS.items():
        if (found := getattr(scaling, name)) != value:
            hint = f"runtimes compute with {value:g} for architecture {model.architecture}, whatever the file states"
            yield Finding("error", f"model.rope_scaling.{name}", f"{value:g}", f"{found:g}", hint)
    first, last = yarn_range(model.rope_base, model.rope_dim, scaling)
    if first > last:
        hint = "transformers and llama.cpp compute different frequencies from such parameters"
        expected, found = "a context in which some pair turns once", f"{scaling.original_context}"
        yield Finding("error", "model.rope_scaling.original_context", expected, found, hint)
