"""conform parity: judge a runtime against PyTorch."""

import datetime
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from conform.core.checkpoint.locate import finished_checkpoints
from conform.core.cli.options import json_option
from conform.core.cli.output import write_json
from conform.core.errors import ConformError
from conform.core.files.atomic import write_atomically
from conform.core.gguf.read import GGUFFile
from conform.core.runtime import Limits
from conform.parity.cli.table import print_expected, print_faults, print_verdict, print_verdicts, progress_lines
from conform.parity.expectations import Expectations, expectations_of, problems_of, read_expectations
from conform.parity.questions.prompts import PROMPTS
from conform.parity.verdict import Verdict

if TYPE_CHECKING:
    from conform.parity.candidate import Candidate
    from conform.parity.launcher import Launcher

__all__ = ["parity"]

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def _memory(_context: click.Context, _parameter: click.Parameter, value: str) -> int:
    match = re.fullmatch(r"(\d+)\s*([KMG]?)(?:i?B)?", value.strip(), re.IGNORECASE)
    if not match or not int(match[1]):
        raise click.BadParameter(f"{value!r} is not an amount of memory; write 8G or 512M")
    return int(match[1]) * _UNITS[match[2].upper()]


@click.command()
@click.argument("files", nargs=-1, metavar="[GGUF]...", type=click.Path(path_type=Path))
@click.option(
    "--go-bin", "--runtime", type=click.Path(path_type=Path), help="The program to judge; without it goref is built."
)
@click.option("--driver", "driver_name", default="bitnet-go", show_default=True, help="How to talk to the runtime.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="What the files were exported from.")
@click.option("--contract", "contract_name", help="The checkpoint's contract, where it carries none.")
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path),
    help="The tokenizer.model or tokenizer.json, where none is beside it.",
)
@click.option("--prompt", "prompts", multiple=True, help=f"Generate from this; by default {len(PROMPTS)} prompts.")
@click.option("--seed", default=1, show_default=True, help="Seed of the sampled runs.")
@click.option("--max-tokens", default=16, show_default=True, type=click.IntRange(1), help="Tokens of each free run.")
@click.option("--positions", default=24, show_default=True, type=click.IntRange(2), help="Positions of forced prose.")
@click.option("--longest", default=512, show_default=True, type=click.IntRange(2), help="Positions of the longest run.")
@click.option("--timeout", default=120.0, show_default=True, type=click.FloatRange(0.01), help="Seconds for each run.")
@click.option("--memory-limit", default="8G", show_default=True, callback=_memory, help="Memory for each run.")
@click.option("--keep-going", is_flag=True, help="Run every rung, even when one that it builds on has failed.")
@click.option("--assume-source", is_flag=True, help="Trust how the checkpoint is read where nothing else can check it.")
@click.option("--expect", type=click.Path(path_type=Path), help="Deviations that are accepted; all else must hold.")
@click.option("--write-expect", type=click.Path(path_type=Path), help="Write down what deviates.")
@click.option("--self-test", is_flag=True, help="Plant faults and show that the verdict catches each.")
@click.option("--check-driver", is_flag=True, help="Ask each kind of question once; say what the driver answers.")
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
    assume_source: bool,
    expect: Path | None,
    write_expect: Path | None,
    self_test: bool,
    check_driver: bool,
    json_path: str | None,
) -> int:
    """Judge a runtime against PyTorch on GGUF files.

    Without GGUF the newest exports under runs/ are taken; without --checkpoint, the one beside each file.
    """
    from conform.parity.candidate import check_scope, open_candidate, require_file
    from conform.parity.launcher import find_launcher
    from conform.parity.questions.sequences import Scope
    from conform.plugins.host import load_registry

    expected = read_expectations(expect) if expect else None
    if write_expect and write_expect.exists():
        raise ConformError(f"{write_expect}: is there already, and so are the reasons in it; name another file")
    paths = files or _newest_exports()
    for path in paths:  # before goref is built for a file that is not there
        require_file(path)
    registry = load_registry()
    limits = Limits(seconds=timeout, memory=memory_limit)
    launcher = find_launcher(registry, driver_name, go_bin, limits)
    scope = Scope(prompts, max_tokens, seed, positions, longest)
    candidates: list[Candidate] = []
    for path in paths:  # all are opened, and their errors found, before the first is judged
        opened = open_candidate(
            path, launcher, registry, checkpoint=checkpoint, contract=contract_name, tokenizer=tokenizer
        )
        if checkpoint is not None and opened.source is not None and opened.source.checkpoint.path != checkpoint:
            click.echo(f"{checkpoint}: taking {opened.source.checkpoint.path}", err=True)
        check_scope(scope, opened)
        candidates.append(_sharing_source(opened, candidates))
    if check_driver:
        from conform.parity.cli.check import check

        return check(candidates, json_path)
    from conform.parity.judgement import judge  # loads torch

    if self_test:
        return _self_test(candidates, launcher, with_goref=go_bin is None, json_path=json_path)
    verdicts: list[Verdict] = []
    for candidate in candidates:
        with progress_lines(candidate.file.path) as progress:
            verdicts.append(
                judge(candidate, scope, limits, progress, keep_going=keep_going, assume_source=assume_source)
            )
        if json_path != "-":
            print_verdict(verdicts[-1])
    if write_expect:
        text = expectations_of(verdicts, datetime.date.today()).to_toml()
        write_atomically(write_expect, text.encode())
    if expected is not None:
        return _as_expected(verdicts, expected, json_path)
    conforms = all(verdict.passed for verdict in verdicts)
    report = {"conforms": conforms, "verdicts": [verdict.to_json() for verdict in verdicts]}
    if not write_json(report, json_path):
        print_verdicts(verdicts)
    return 0 if conforms else 1


def _as_expected(verdicts: Sequence[Verdict], expected: Expectations, json_path: str | None) -> int:
    """The verdicts held to what is expected of them; 0 when that is all that deviates."""
    today = datetime.date.today()
    problems = [problems_of(verdict, expected, today) for verdict in verdicts]
    reports = [
        verdict.to_json() | {"as_expected": not found, "unexpected": found}
        for verdict, found in zip(verdicts, problems, strict=True)
    ]
    report = {
        "conforms": all(verdict.passed for verdict in verdicts),
        "as_expected": not any(problems),
        "verdicts": reports,
    }
    if not write_json(report, json_path):
        print_expected(verdicts, problems)
    return 1 if any(problems) else 0


def _self_test(
    candidates: "Sequence[Candidate]", launcher: "Launcher", *, with_goref: bool, json_path: str | None
) -> int:
    """Faults planted into each file, and into goref where goref is what is judged."""
    from conform.parity.selftest.selftest import plant_faults

    faults = []
    for candidate in candidates:
        if candidate.source is None:
            raise ConformError(f"{candidate.file.path}: planted faults are judged with every rung; give --checkpoint")

        def broken(binary: Path | None, file: GGUFFile, healthy: "Candidate" = candidate) -> "Candidate":
            started = replace(launcher, program=binary or launcher.program)
            return replace(healthy, file=file, runtime=started.open(file), launcher=started)

        for fault in plant_faults(candidate, broken, runtimes=with_goref):
            faults.append(fault)
            click.echo(f"{candidate.file.path.name}: {fault.name}: {'caught' if fault.caught else 'MISSED'}", err=True)
    caught = all(fault.caught for fault in faults) and bool(faults)
    if not write_json({"caught": caught, "faults": [fault.to_json() for fault in faults]}, json_path):
        print_faults(faults)
    return 0 if caught else 1


def _sharing_source(opened: "Candidate", others: "Sequence[Candidate]") -> "Candidate":
    """The candidate with the source of another that has the same one, so that it is checked only once."""
    for other in others:
        if opened.source and other.source and opened.source.is_same(other.source):
            return replace(opened, source=other.source)
    return opened


def _newest_exports() -> Sequence[Path]:
    runs = Path("runs")
    for folder in finished_checkpoints(runs):
        if files := sorted(folder.glob("*.gguf")):
            return files
    raise ConformError(f"{runs}: no GGUF file beside any checkpoint under this folder; run `conform export` first")
