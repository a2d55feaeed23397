"""conform train: train a model, plan its memory, report on its run."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeVar, get_args, get_origin

import click

from conform.contract.load import load_contract
from conform.contract.spec import ModelSpec
from conform.core.cli.console import console, print_table
from conform.core.cli.options import json_option
from conform.core.cli.output import check_replaceable, write_json, write_text_atomically
from conform.trainer.config import TrainConfig, config_help, read_config, with_values
from conform.trainer.distributed.torchrun import is_first_of_host, is_worker
from conform.trainer.errors import ConformError
from conform.trainer.run.request import Setting, TrainRequest, load_request

__all__ = ["train"]

_Command = TypeVar("_Command", bound=Callable[..., object])


def _settings(command: _Command) -> _Command:
    """One option for every setting of TrainConfig."""
    for name, (hint, text) in reversed(list(config_help().items())):
        flag = f"--{name.replace('_', '-')}"
        if hint is bool:
            option = click.option(f"{flag}/--no-{name.replace('_', '-')}", name, default=None, help=text)
        else:
            kind = click.Choice(get_args(hint)) if get_origin(hint) is Literal else hint
            option = click.option(flag, name, type=kind, default=None, help=text)
        command = option(command)
    return command


@click.group(invoke_without_command=True)
@click.option("--contract", help="Name or path of the contract, such as tiny or nano+ternary.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of token shards, from `conform data build`.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the new run, such as runs/first.")
@click.option("--resume", type=click.Path(path_type=Path), help="Go on with the run in this folder.")
@click.option("--config", help="TOML file, or name of a shipped config, with settings; options override it.")
@_settings
@click.pass_context
def train(
    context: click.Context,
    /,
    contract: str | None,
    data: Path | None,
    out: Path | None,
    resume: Path | None,
    config: str | None,
    **values: Setting | None,
) -> int:
    """Train a model to a checkpoint that its contract accepts, alone or under torchrun.

    Ctrl-C and SIGTERM save a checkpoint and stop; `--resume RUN` goes on from there, bit for bit as if nothing had
    happened, when the number of processes is the same.
    """
    if context.invoked_subcommand is not None:
        return 0
    if (out is None) == (resume is None):
        raise click.UsageError("give --out for a new run, or --resume to go on with one")
    path = out or resume
    assert path is not None  # one of the two is given
    return _run(TrainRequest(path, resume is not None, contract, data, config, _given(values)))


@train.command()
@click.option("--contract", required=True, help="Name or path of the contract.")
@click.option("--gpus", type=click.IntRange(1), multiple=True, help="Devices; may be given more than once.")
@click.option("--memory", type=click.FloatRange(0, min_open=True), default=80.0, show_default=True, help="GiB of each.")
@click.option("--config", help="TOML file, or name of a shipped config, with settings.")
@click.option("--batch", type=click.IntRange(1), help="Sequences of one optimiser step, over all devices.")
@click.option("--sequence", type=click.IntRange(1), help="Tokens of one sequence; the contract's context by default.")
@click.option("--tokens", type=click.IntRange(1), help="Tokens of the whole run; 20 a parameter by default.")
@click.option("--recompute/--no-recompute", default=None, help="Activation checkpointing.")
@click.option(
    "--tflops",
    type=click.FloatRange(0, min_open=True),
    default=400.0,
    show_default=True,
    help="What each device sustains, in 10^12/s.",
)
@json_option
def plan(
    contract: str,
    gpus: tuple[int, ...],
    memory: float,
    config: str | None,
    batch: int | None,
    sequence: int | None,
    tokens: int | None,
    recompute: bool | None,
    tflops: float,
    json_path: str | None,
) -> int:
    """Say how much memory and time a run needs on each number of devices; exit 1 when it fits on none of them."""
    if not math.isfinite(memory + tflops):
        raise click.UsageError("--memory and --tflops: expected finite numbers")
    spec = load_contract(contract).model
    settings = _planned(spec, config, _given({"batch": batch, "sequence": sequence, "recompute": recompute}))
    total = tokens or 20 * spec.parameters
    rows = [_plan_row(spec, settings, devices, memory, total, tflops) for devices in gpus or (1, 2, 4, 8, 16, 32, 64)]
    if not write_json([asdict(row) for row in rows], json_path):
        title = f"{contract}: {spec.parameters:,} parameters, {settings.batch} x {settings.sequence} tokens a step"
        _print_plan(rows, spec, settings, title, memory)
        console().print(
            f"time for {total:,} tokens at {tflops:g} TFLOP/s a device; "
            f"{3 * 4 * spec.parameters / 1e9:.1f} GB a checkpoint"
        )
    return 0 if any(row.fits for row in rows) else 1


@train.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The page; RUN/report.html by default.")
def report(run: Path, output: Path | None) -> int:
    """Draw the curves of a run as one self-contained HTML page."""
    from conform.trainer.run.report import run_report

    path = output or run / "report.html"
    check_replaceable(path, "<!doctype html>")
    page = run_report(run)
    write_text_atomically(path, page)
    console().print(f"{path}: {len(page.encode()):,} bytes", markup=False)
    return 0


def _given(values: Mapping[str, Setting | None]) -> dict[str, Setting]:
    return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class _PlanRow:
    """A run on so many devices; `gib` is what each needs, `days` and `gpu_hours` what all tokens take."""

    devices: int
    micro_batch: int
    accumulated: int
    gib: float
    fits: bool
    days: float
    gpu_hours: int


def _planned(spec: ModelSpec, config: str | None, given: Mapping[str, Setting]) -> TrainConfig:
    base = TrainConfig(batch=512, sequence=spec.context, dtype="bf16")
    settings = with_values(read_config(config) if config else base, given, "command line")
    if settings.sequence > spec.context:
        raise click.UsageError(
            f"sequence = {settings.sequence}: expected at most {spec.context}, the contract's context"
        )
    return settings


def _plan_row(
    spec: ModelSpec, settings: TrainConfig, devices: int, memory: float, tokens: int, tflops: float
) -> _PlanRow:
    from conform.trainer.planning.memory import largest_micro_batch, memory_plan, training_days

    fitting = largest_micro_batch(spec, settings, devices, memory)
    micro_batch = max(1, fitting)
    days = training_days(spec, settings, devices, tokens, tflops * 1e12)
    return _PlanRow(
        devices=devices,
        micro_batch=fitting,
        accumulated=-(-settings.batch // (devices * micro_batch)),
        gib=round(memory_plan(spec, settings, devices, micro_batch).total / 2**30, 2),
        fits=fitting > 0,
        days=round(days, 2),
        gpu_hours=round(days * 24 * devices),
    )


def _print_plan(rows: Sequence[_PlanRow], spec: ModelSpec, settings: TrainConfig, title: str, memory: float) -> None:
    from conform.trainer.planning.memory import memory_plan

    headings = ("devices", "micro batch", "accumulated", "GiB each", f"fits in {memory:g}", "days", "GPU-hours")
    print_table(headings, [[_cell(value) for value in asdict(row).values()] for row in rows], title=title)
    chosen = next((row for row in rows if row.fits), rows[-1])
    parts = memory_plan(spec, settings, chosen.devices, max(1, chosen.micro_batch)).rows()
    print_table(("GiB", f"on each of {chosen.devices}"), [(size, name) for name, size in parts])


def _cell(value: float) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else f"{value:,}"


def _run(request: TrainRequest) -> int:
    if not is_worker():
        return _work(request)
    try:
        status = _work(request)
    except ConformError as error:
        # Once on each host: what was wrong may be wrong there only.
        if is_first_of_host():
            console(stderr=True).print(f"conform: {error}", markup=False)
        status = 2
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 70
    from conform.trainer.distributed.world import exit_worker

    return exit_worker(status)


def _work(request: TrainRequest) -> int:
    loaded = load_request(request)  # before torch is imported: what is refused is refused at once
    from conform.trainer.distributed.world import join, leave
    from conform.trainer.run.launch import launch
    from conform.trainer.run.live import SilentView, view_for_terminal

    world = join(loaded.settings)
    view = view_for_terminal(loaded.settings.log_every) if world.main else SilentView()
    outcome = launch(loaded, world, view)
    leave(world)
    if outcome is None:
        return 0
    if outcome.signal:
        view.note(f"stopped at step {outcome.step}; go on with: conform train --resume {request.out}")
        return 128 + outcome.signal
    view.note(f"complete: {outcome.checkpoint}")
    return 0
