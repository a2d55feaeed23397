"""conform train: train a model, plan its memory, report on its run."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click

from conform.core.report import console
from conform.trainer.config import config_help
from conform.trainer.errors import ConformError

__all__ = ["train"]


def _settings(command: Callable[..., Any]) -> Callable[..., Any]:
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
    **values: Any,
) -> int:
    """Train a model to a checkpoint that its contract accepts, alone or under torchrun.

    Ctrl-C and SIGTERM save a checkpoint and stop; `--resume RUN` goes on from there, bit for bit as if nothing had
    happened, when the number of processes is the same.
    """
    if context.invoked_subcommand is not None:
        return 0
    if (out is None) == (resume is None):
        raise click.UsageError("give --out for a new run, or --resume to go on with one")
    from conform.trainer.launch import Request

    given = {name: value for name, value in values.items() if value is not None}
    path = out or resume
    assert path is not None  # one of the two is given
    return _run(Request(path, resume is not None, contract, data, config, given))


def _run(request: Any) -> int:
    from conform.trainer.distributed import exit_worker, is_worker

    if not is_worker():
        return _work(request)
    try:
        status = _work(request)
    except ConformError as error:
        if os.environ.get("RANK", "0") == "0":
            console(stderr=True).print(f"conform: {error}", markup=False)
        status = 2
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 70
    return exit_worker(status)


def _work(request: Any) -> int:
    from conform.trainer.distributed import join, leave
    from conform.trainer.launch import launch, settings
    from conform.trainer.live import SilentView, view_for_terminal

    config = settings(request)
    world = join(config)
    view = view_for_terminal(config.log_every) if world.main else SilentView()
    outcome = launch(request, world, view)
    leave(world)
    if outcome is None:
        return 0
    if outcome.signal:
        view.note(f"stopped at step {outcome.step}; go on with: conform train --resume {request.out}")
        return 128 + outcome.signal
    view.note(f"complete: {outcome.checkpoint}")
    return 0
