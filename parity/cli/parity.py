"""conform parity: judge a runtime against PyTorch."""

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from conform.core.checkpoint.checkpoint import contract_of, finished_checkpoints, open_checkpoint
from conform.core.cli.options import json_option
from conform.core.cli.output import write_json
from conform.core.errors import ConformError, InputError
from conform.core.gguf.read import GGUFFile
from conform.core.runtime import Limits, RuntimeDriver
from conform.parity.cli.table import print_faults, print_verdict, print_verdicts, progress_lines
from conform.parity.errors import RuntimeDriverError
from conform.parity.questions.prompts import PROMPTS
from conform.parity.verdict import Verdict

if TYPE_CHECKING:
    from conform.parity.evidence import Source, Subject
    from conform.parity.questions.sequences import Scope
    from conform.parity.questions.tokenizer import PromptTokenizer
    from conform.plugins.registry import Registry

__all__ = ["parity"]

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def _memory(_context: click.Context, _parameter: click.Parameter, value: str) -> int:
    match = re.fullmatch(r"(\d+)\s*([KMG]?)(?:i?B)?", value.strip(), re.IGNORECASE)
    if not match or not int(match[1]):
        raise click.BadParameter(f"{value!r} is no amount of memory; write 8G or 512M")
    return int(match[1]) * _UNITS[match[2].upper()]


@click.command()
@click.argument("files", nargs=-1, metavar="[GGUF]...", type=click.Path(path_type=Path))
@click.option(
    "--go-bin", "--runtime", type=click.Path(path_type=Path), help="The program to judge; without it goref is built."
)
@click.option("--driver", "driver_name", default="bitnet-go", show_default=True, help="How to talk to the runtime.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="What the files were exported from.")
@click.option("--contract", "contract_name", help="The checkpoint's contract, where it carries none.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="The SentencePiece model, where none is beside it.")
@click.option("--prompt", "prompts", multiple=True, help=f"Generate from this; by default {len(PROMPTS)} prompts.")
@click.option("--seed", default=1, show_default=True, help="Seed of the sampled runs.")
@click.option("--max-tokens", default=16, show_default=True, type=click.IntRange(1), help="Tokens of each free run.")
@click.option("--positions", default=24, show_default=True, type=click.IntRange(2), help="Positions of forced prose.")
@click.option("--longest", default=512, show_default=True, type=click.IntRange(2), help="Positions of the longest run.")
@click.option("--timeout", default=120.0, show_default=True, type=click.FloatRange(0.01), help="Seconds for each run.")
@click.option("--memory-limit", default="8G", show_default=True, callback=_memory, help="Memory for each run.")
@click.option("--keep-going", is_flag=True, help="Run every rung, even when one that it builds on has failed.")
@click.option("--self-test", is_flag=True, help="Plant faults and show that the verdict catches each.")
@json_option
def parity(
    files: tuple[Path, ...],
    go_bin: Path | None,
    driver_name: str,
    checkpoint: Path | None,
    contract_name: str | None,
    tokenizer: Path | None,
    prompts: tuple[str, ...],
    seed: int,
    max_tokens: int,
    positions: int,
    longest: int,
    timeout: float,
    memory_limit: int,
    keep_going: bool,
    self_test: bool,
    json_path: str | None,
) -> int:
    """Judge a runtime against PyTorch on GGUF files.

    Without GGUF the newest exports under runs/ are taken; without --checkpoint, the one beside each file.
    """
    from conform.parity.ladder import judge
    from conform.parity.questions.sequences import Scope
    from conform.plugins.host import load_registry

    registry = load_registry()
    driver = _driver(registry, driver_name)
    program = go_bin if go_bin is not None else _goref(driver_name)
    limits = Limits(seconds=timeout, memory=memory_limit)
    scope = Scope(prompts, max_tokens, seed, positions, longest)
    subjects = []
    for path in files or _newest_exports():
        file = _open(path, registry)
        source = _source(file, checkpoint, contract_name)
        subjects.append(_subject(file, driver, program, limits, registry, source, tokenizer))
        _check_scope(scope, subjects[-1])
    if self_test:
        return _self_test(subjects, driver, program, limits, with_goref=go_bin is None, json_path=json_path)
    verdicts: list[Verdict] = []
    for subject in subjects:
        with progress_lines(subject.file.path) as progress:
            verdicts.append(judge(subject, scope, limits, progress, keep_going=keep_going))
        if json_path != "-":
            print_verdict(verdicts[-1])
    conforms = all(verdict.passed for verdict in verdicts)
    report = {"conforms": conforms, "verdicts": [verdict.to_json() for verdict in verdicts]}
    if not write_json(report, json_path):
        print_verdicts(verdicts)
    return 0 if conforms else 1


def _self_test(
    subjects: "Sequence[Subject]",
    driver: RuntimeDriver,
    program: Path,
    limits: Limits,
    *,
    with_goref: bool,
    json_path: str | None,
) -> int:
    """Faults planted into each file, and into goref where goref is what is judged."""
    from conform.parity.selftest.selftest import plant_faults

    faults = []
    for subject in subjects:
        if subject.source is None:
            raise ConformError(f"{subject.file.path}: planted faults are judged with every rung; give --checkpoint")

        def broken(binary: Path | None, file: GGUFFile, healthy: "Subject" = subject) -> "Subject":
            return replace(healthy, file=file, runtime=driver.open(binary or program, file, limits))

        for fault in plant_faults(subject, broken, runtimes=with_goref):
            faults.append(fault)
            click.echo(f"{subject.file.path.name}: {fault.name}: {'caught' if fault.caught else 'MISSED'}", err=True)
    caught = all(fault.caught for fault in faults) and bool(faults)
    if not write_json({"caught": caught, "faults": [fault.to_json() for fault in faults]}, json_path):
        print_faults(faults)
    return 0 if caught else 1


def _driver(registry: "Registry", name: str) -> RuntimeDriver:
    drivers = registry.runtime_drivers
    if name not in drivers:
        failures = "".join(f"; {failure}" for failure in registry.failures)
        raise RuntimeDriverError(f"{name}: no such driver; there are {', '.join(drivers)}{failures}")
    driver: RuntimeDriver = drivers[name]
    return driver


def _goref(driver_name: str) -> Path:
    if driver_name != "bitnet-go":
        raise RuntimeDriverError(f"the driver {driver_name} needs a program to judge; name it with --runtime")
    from conform.parity.goref.toolchain import build_goref

    return build_goref()


def _newest_exports() -> Sequence[Path]:
    runs = Path("runs")
    for folder in finished_checkpoints(runs):
        if files := sorted(folder.glob("*.gguf")):
            return files
    raise ConformError(f"{runs}: no GGUF file beside any checkpoint under this folder; run `conform export` first")


def _open(path: Path, registry: "Registry") -> GGUFFile:
    from conform.core.verify.verify import open_gguf

    if not path.is_file():
        raise ConformError(f"{path}: no such file; give the path of a GGUF file")
    return open_gguf(path.resolve(), registry)


def _source(file: GGUFFile, asked: Path | None, contract_name: str | None) -> "Source | None":
    """The checkpoint asked for, else the one beside the file if the file says that it comes from it."""
    from conform.parity.evidence import Source

    if asked is not None:
        checkpoint = open_checkpoint(asked)
        return Source(checkpoint, contract_of(checkpoint, contract_name))
    try:
        checkpoint = open_checkpoint(file.path.parent)
        if checkpoint.digest != file.metadata.get("conform.checkpoint.digest"):
            return None
    except InputError:
        return None
    return Source(checkpoint, contract_of(checkpoint, contract_name))


def _subject(
    file: GGUFFile,
    driver: RuntimeDriver,
    program: Path,
    limits: Limits,
    registry: "Registry",
    source: "Source | None",
    tokenizer: Path | None,
) -> "Subject":
    from conform.parity.evidence import Subject

    if program.resolve() in {Path(sys.executable).resolve(), Path(sys.argv[0]).resolve()}:
        raise RuntimeDriverError(f"{program}: that is conform itself; the reference cannot be its own subject")
    runtime = driver.open(program, file, limits)
    return Subject(file, runtime, registry, source, _tokenizer(source, tokenizer))


def _tokenizer(source: "Source | None", asked: Path | None) -> "PromptTokenizer | None":
    from conform.parity.questions.tokenizer import open_tokenizer

    path = asked or (source.checkpoint.tokenizer_path if source else None)
    if path is None:
        return None
    return open_tokenizer(path, source.contract.tokenizer if source else None)


def _check_scope(scope: "Scope", subject: "Subject") -> None:
    """A prompt that cannot be asked is an error of the user's, never a passage that is silently left out."""
    context = subject.file.metadata.get(f"{subject.file.metadata.get('general.architecture')}.context_length")
    embedding = subject.file.tensors.get("token_embd.weight")
    if subject.tokenizer and embedding and subject.tokenizer.size > embedding.shape[0]:
        raise RuntimeDriverError(
            f"the tokenizer has {subject.tokenizer.size} pieces, the embedding of {subject.file.path} only "
            f"{embedding.shape[0]} rows; it belongs to another model"
        )
    for prompt in scope.prompts:
        if "\0" in prompt:
            raise RuntimeDriverError("a prompt with a NUL character cannot be passed on a command line")
        tokens = len(subject.tokenizer.ids(prompt)) if subject.tokenizer else 0
        if isinstance(context, int) and tokens >= context:
            raise RuntimeDriverError(
                f"the prompt {prompt[:40]!r} has {tokens} tokens; the model's context is {context}"
            )
