"""Config: every decision of a training run, as one frozen value that is written into the run."""

# ruff: noqa: RUF009  # `_option` is dataclasses.field, with the help beside the default

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from conform.contract.mapping import Rule, from_mapping
from conform.contract.toml import parse_toml, read_toml, toml_text
from conform.trainer.errors import TrainError

__all__ = [
    "MAY_CHANGE_ON_RESUME",
    "TrainConfig",
    "config_help",
    "config_to_toml",
    "read_config",
    "resolved",
    "shipped_configs",
    "with_values",
]

_FROM_ZERO = Rule("0 or more", lambda value: 0 <= value < float("inf"))
_ABOVE_ZERO = Rule("more than 0", lambda value: 0 < value < float("inf"))
_Count = Annotated[int, _FROM_ZERO]
_Size = Annotated[int, _ABOVE_ZERO]
_Amount = Annotated[float, _FROM_ZERO]
_Rate = Annotated[float, _ABOVE_ZERO]
_Share = Annotated[float, Rule("0 to 1", lambda value: 0 <= value <= 1)]


def _option(default: Any, help_text: str, *, later: bool = False) -> Any:
    # `later`: the value may differ when a run is resumed, for it changes no number that the run computes.
    return field(default=default, metadata={"help": help_text, "later": later})


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """The settings of a run; each is a key of the TOML file and, with dashes, an option of `conform train`."""

    steps: _Count = _option(0, "Optimiser steps of the whole run; 0 derives them from --tokens.", later=True)
    tokens: _Count = _option(0, "Tokens of the whole run, rounded up to whole steps; 0 uses --steps.", later=True)
    seed: _Count = _option(1, "Seed of the initial weights and of the order of the data.")
    batch: _Size = _option(16, "Sequences of one optimiser step, over all processes.")
    micro_batch: _Count = _option(0, "Sequences of one forward pass of one process; 0 means all that it has.")
    sequence: _Size = _option(256, "Tokens of one sequence; at most the contract's context.")
    lr: _Rate = _option(1e-3, "Peak learning rate.")
    min_lr: _Share = _option(0.1, "Final learning rate, as a fraction of the peak.")
    warmup: _Share = _option(0.02, "Linear warm-up, as a fraction of the steps.")
    beta1: _Share = _option(0.9, "AdamW: decay of the mean of the gradients.")
    beta2: _Share = _option(0.95, "AdamW: decay of the mean of their squares.")
    eps: _Rate = _option(1e-8, "AdamW: added to the root of the second mean.")
    weight_decay: _Amount = _option(0.1, "AdamW: decoupled decay of the matrices; vectors never decay.")
    decay_until: float = _option(
        -1.0, "Weight decay ends after this fraction of the steps; -1 means 1 for dense, 0.5 for ternary contracts."
    )
    clip: _Amount = _option(1.0, "Largest norm of the gradient; 0 switches clipping off.")
    dtype: Literal["auto", "bf16", "f32"] = _option("auto", "Compute dtype; weights and sums stay float32.")
    device: Literal["auto", "cpu", "cuda"] = _option("auto", "Where to train.")
    threads: _Count = _option(0, "Threads of one process; 0 leaves torch's choice.")
    recompute: bool = _option(True, "Activation checkpointing: keep block inputs only, compute the rest again.")
    compile: bool = _option(False, "torch.compile every block.")
    loss_chunk: _Count = _option(1024, "Positions whose logits exist at once; 0 means all.")
    verify: Literal["full", "lazy", "off"] = _option("full", "When the hashes of token shards are checked.", later=True)
    eval_every: _Count = _option(0, "Steps between evaluations on the held-out split; 0 means a tenth of the run.")
    eval_sequences: _Size = _option(64, "Held-out sequences of one evaluation.")
    save_every: _Count = _option(0, "Steps between checkpoints; 0 means a quarter of the run.", later=True)
    keep_last: _Count = _option(
        2, "Checkpoints kept besides the last good one of --keep-every; 0 keeps all.", later=True
    )
    keep_every: _Count = _option(
        0, "Checkpoints of steps divisible by this are kept for good; 0 means none.", later=True
    )
    async_save: bool = _option(False, "Write checkpoints while training goes on.", later=True)
    shard_gb: _Rate = _option(4.0, "Largest weight file of a checkpoint, in gigabytes.", later=True)
    log_every: _Size = _option(1, "Steps between lines of the log; every step is recorded.", later=True)
    tensorboard: bool = _option(False, "Write TensorBoard events as well.", later=True)
    judge: str = _option("", "Quantisations to judge while training, such as i2_s,iq3_s.", later=True)
    judge_every: _Count = _option(0, "Steps between judgements; 0 means with every evaluation.", later=True)
    timeout: _Size = _option(600, "Seconds after which a process that does not answer is given up.", later=True)


MAY_CHANGE_ON_RESUME = frozenset(item.name for item in dataclasses.fields(TrainConfig) if item.metadata["later"])
"""Settings that change nothing that an uninterrupted run would have computed, or its length."""


def shipped_configs() -> tuple[str, ...]:
    """The names of the configs that ship with conform, sorted."""
    folder = resources.files("conform.trainer").joinpath("configs")
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def read_config(reference: str, base: TrainConfig | None = None) -> TrainConfig:
    """The config of that path or shipped name, over `base`.

    Raises TrainError for a name that does not exist, InputError naming file and key for anything that is not a setting.
    """
    path = Path(reference)
    if path.is_file():
        values = read_toml(path, "a training config")
    elif reference in shipped_configs():
        shipped = resources.files("conform.trainer").joinpath("configs", f"{reference}.toml")
        values = parse_toml(shipped.read_bytes(), reference)
    else:
        raise TrainError(f"{reference}: no such config file; shipped are {', '.join(shipped_configs())}")
    return with_values(base or TrainConfig(), values, reference)


def with_values(config: TrainConfig, values: Mapping[str, Any], where: str) -> TrainConfig:
    """The config with these settings replaced; `where` names their source in errors.

    Steps and tokens are one setting, the length: giving one of them takes back the other.
    Raises InputError naming the key that is unknown, of another type or out of range.
    """
    kept = dataclasses.asdict(config)
    if {"steps", "tokens"} & set(values):
        kept |= {"steps": 0, "tokens": 0}
    return from_mapping(TrainConfig, {**kept, **values}, where)


def config_to_toml(config: TrainConfig) -> str:
    """The config as a TOML file that `read_config` reads back to an equal value."""
    return toml_text(dataclasses.asdict(config))


def config_help() -> Mapping[str, tuple[Any, str]]:
    """Each setting's type and help."""
    hints = get_type_hints(TrainConfig)
    return {item.name: (hints[item.name], item.metadata["help"]) for item in dataclasses.fields(TrainConfig)}


def resolved(
    config: TrainConfig, *, ternary: bool, context: int, world: int, device: str, bfloat16: bool
) -> TrainConfig:
    """The config with every "derive it" replaced by the value that is used; `bfloat16`: what "auto" means here.

    Raises TrainError when the settings contradict each other, the contract or the number of processes.
    """
    if config.sequence > context:
        raise TrainError(f"sequence = {config.sequence}: expected at most {context}, the contract's context")
    if config.batch % world:
        raise TrainError(f"batch = {config.batch}: expected a multiple of the {world} processes")
    steps = _steps(config)
    micro = config.micro_batch or config.batch // world
    if config.batch // world % micro:
        raise TrainError(f"micro_batch = {micro}: expected a divisor of {config.batch // world} sequences per process")
    return dataclasses.replace(
        config,
        steps=steps,
        tokens=steps * config.batch * config.sequence,
        dtype=config.dtype if config.dtype != "auto" else ("bf16" if bfloat16 else "f32"),
        device=device,  # type: ignore[arg-type]  # torch's name of it: cpu or cuda
        decay_until=config.decay_until if config.decay_until >= 0 else (0.5 if ternary else 1.0),
        eval_every=config.eval_every or max(1, steps // 10),
        judge_every=config.judge_every or config.eval_every or max(1, steps // 10),
        save_every=config.save_every or max(1, steps // 4),
    )


def _steps(config: TrainConfig) -> int:
    per_step = config.batch * config.sequence
    if not config.steps and not config.tokens:
        raise TrainError("neither steps nor tokens is set; say how long to train with --steps or --tokens")
    if config.steps and config.tokens and not 0 <= config.steps * per_step - config.tokens < per_step:
        raise TrainError(
            f"steps = {config.steps} and tokens = {config.tokens} contradict each other at {per_step} tokens a step; "
            "give one of them"
        )
    return config.steps or -(-config.tokens // per_step)
