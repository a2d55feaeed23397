"""Config: every decision of a training run, as one frozen value that is written into the run."""

import dataclasses
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

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

_LARGEST_FILE = 1 << 20


_RANGES: Mapping[str, Callable[[Any], bool]] = {
    "0 or more": lambda value: 0 <= value < float("inf"),
    "more than 0": lambda value: 0 < value < float("inf"),
    "0 to 1": lambda value: 0 <= value <= 1,
}


def _option(default: Any, help_text: str, allowed: str = "", *, later: bool = False) -> Any:
    # `later`: the value may differ when a run is resumed, for it changes no number that the run computes.
    return field(default=default, metadata={"help": help_text, "allowed": allowed, "later": later})


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """The settings of a run; each is a key of the TOML file and, with dashes, an option of `conform train`."""

    steps: int = _option(0, "Optimiser steps of the whole run; 0 derives them from --tokens.", "0 or more", later=True)
    tokens: int = _option(
        0, "Tokens of the whole run, rounded up to whole steps; 0 uses --steps.", "0 or more", later=True
    )
    seed: int = _option(1, "Seed of the initial weights and of the order of the data.", "0 or more")
    batch: int = _option(16, "Sequences of one optimiser step, over all processes.", "more than 0")
    micro_batch: int = _option(0, "Sequences of one forward pass of one process; 0 means all that it has.", "0 or more")
    sequence: int = _option(256, "Tokens of one sequence; at most the contract's context.", "more than 0")
    lr: float = _option(1e-3, "Peak learning rate.", "more than 0")
    min_lr: float = _option(0.1, "Final learning rate, as a fraction of the peak.", "0 to 1")
    warmup: float = _option(0.02, "Linear warm-up, as a fraction of the steps.", "0 to 1")
    beta1: float = _option(0.9, "AdamW: decay of the mean of the gradients.", "0 to 1")
    beta2: float = _option(0.95, "AdamW: decay of the mean of their squares.", "0 to 1")
    eps: float = _option(1e-8, "AdamW: added to the root of the second mean.", "more than 0")
    weight_decay: float = _option(0.1, "AdamW: decoupled decay of the matrices; vectors never decay.", "0 or more")
    decay_until: float = _option(
        -1.0, "Weight decay ends after this fraction of the steps; -1 means 1 for dense, 0.5 for ternary contracts."
    )
    clip: float = _option(1.0, "Largest norm of the gradient; 0 switches clipping off.", "0 or more")
    dtype: Literal["auto", "bf16", "f32"] = _option("auto", "Compute dtype; weights and sums stay float32.")
    device: Literal["auto", "cpu", "cuda"] = _option("auto", "Where to train.")
    threads: int = _option(0, "Threads of one process; 0 leaves torch's choice.", "0 or more")
    recompute: bool = _option(True, "Activation checkpointing: keep block inputs only, compute the rest again.")
    compile: bool = _option(False, "torch.compile every block.")
    loss_chunk: int = _option(1024, "Positions whose logits exist at once; 0 means all.", "0 or more")
    verify: Literal["full", "lazy", "off"] = _option("full", "When the hashes of token shards are checked.", later=True)
    eval_every: int = _option(
        0, "Steps between evaluations on the held-out split; 0 means a tenth of the run.", "0 or more"
    )
    eval_sequences: int = _option(64, "Held-out sequences of one evaluation.", "more than 0")
    save_every: int = _option(0, "Steps between checkpoints; 0 means a quarter of the run.", "0 or more", later=True)
    keep_last: int = _option(
        2, "Checkpoints kept besides the last good one of --keep-every; 0 keeps all.", "0 or more", later=True
    )
    keep_every: int = _option(
        0, "Checkpoints of steps divisible by this are kept for good; 0 means none.", "0 or more", later=True
    )
    async_save: bool = _option(False, "Write checkpoints while training goes on.", later=True)
    shard_gb: float = _option(4.0, "Largest weight file of a checkpoint, in gigabytes.", "more than 0", later=True)
    log_every: int = _option(1, "Steps between lines of the log; every step is recorded.", "more than 0", later=True)
    tensorboard: bool = _option(False, "Write TensorBoard events as well.", later=True)
    judge: str = _option("", "Quantisations to judge while training, such as i2_s,iq3_s.", later=True)
    judge_every: int = _option(0, "Steps between judgements; 0 means with every evaluation.", "0 or more", later=True)
    timeout: int = _option(
        600, "Seconds after which a process that does not answer is given up.", "more than 0", later=True
    )

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise TrainError(problem)


MAY_CHANGE_ON_RESUME = frozenset(item.name for item in dataclasses.fields(TrainConfig) if item.metadata["later"])
"""Settings that change nothing that an uninterrupted run would have computed, or its length."""


def shipped_configs() -> tuple[str, ...]:
    """The names of the configs that ship with conform, sorted."""
    folder = resources.files("conform.trainer").joinpath("configs")
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def read_config(reference: str, base: TrainConfig | None = None) -> TrainConfig:
    """The config of that path or shipped name, over `base`.

    Raises TrainError naming file and key for anything unknown or of the wrong type.
    """
    path = Path(reference)
    if path.is_file():
        content = _content(path)
    elif reference in shipped_configs():
        content = resources.files("conform.trainer").joinpath("configs", f"{reference}.toml").read_bytes()
    else:
        raise TrainError(f"{reference}: no such config file; shipped are {', '.join(shipped_configs())}")
    try:
        values = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:  # what tomllib raises, and what it lets through
        raise TrainError(f"{reference}: not a TOML file: {error}") from error
    return with_values(base or TrainConfig(), values, reference)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise TrainError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > _LARGEST_FILE:
        raise TrainError(f"{path}: no config file; expected at most {_LARGEST_FILE} bytes of TOML")
    return content


def with_values(config: TrainConfig, values: Mapping[str, Any], where: str) -> TrainConfig:
    """The config with these settings replaced; `where` names their source in errors.

    Steps and tokens are one setting, the length: who gives one of them takes back the other.
    """
    hints = get_type_hints(TrainConfig)
    if unknown := sorted(set(values) - set(hints)):
        raise TrainError(f"{where}: unknown setting {', '.join(unknown)}; known are {', '.join(hints)}")
    if {"steps", "tokens"} & set(values):
        config = dataclasses.replace(config, steps=0, tokens=0)
    checked = {key: _checked(value, hints[key], f"{where}: {key}") for key, value in values.items()}
    try:
        return dataclasses.replace(config, **checked)
    except TrainError as error:
        raise TrainError(f"{where}: {error}") from error


def config_to_toml(config: TrainConfig) -> str:
    """The config as a TOML file that `read_config` reads back to an equal value."""
    return "".join(f"{key} = {_toml(value)}\n" for key, value in dataclasses.asdict(config).items())


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


def _problems(config: TrainConfig) -> list[str]:
    problems = []
    for item in dataclasses.fields(TrainConfig):
        value, allowed = getattr(config, item.name), item.metadata["allowed"]
        if allowed and not _RANGES[allowed](value):
            problems.append(f"{item.name} = {value}: expected {allowed}")
    return problems


def _checked(value: object, hint: Any, where: str) -> Any:
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise TrainError(f"{where} = {value!r}: expected one of {', '.join(get_args(hint))}")
        return value
    accepted = (int, float) if hint is float else (hint,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise TrainError(f"{where} = {value!r}: expected a value of type {hint.__name__}")
    return float(value) if hint is float else value


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' if isinstance(value, str) else repr(value)
