"""conform contract: list, show, solve, check, diff, infer."""

import dataclasses
import json
from fractions import Fraction
from pathlib import Path

import click

from conform.contract.check import check_tensors
from conform.contract.diff import diff
from conform.contract.dump import dump_contract
from conform.contract.finding import failed
from conform.contract.inventory import inventory
from conform.contract.load import load_contract, shipped_contracts
from conform.contract.mapping import to_mapping
from conform.contract.solve import Candidate, SearchSpace, solve
from conform.core.cli.console import print_findings, print_table
from conform.core.cli.options import json_option
from conform.core.cli.output import check_replaceable, write_json, write_text_atomically

__all__ = ["contract"]


class _RangeType(click.ParamType[range]):
    """`16:20` is 16 to 20 inclusive, `16` is 16 alone."""

    name = "LOW:HIGH"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> range:
        low, colon, high = str(value).partition(":")
        if not low.isdecimal() or (high and not high.isdecimal()) or (colon and not high):
            self.fail(f"{value!r}: expected LOW:HIGH or a single number, as in 16:20", param, ctx)
        return range(int(low), int(high or low) + 1)


class _CountType(click.ParamType[int]):
    """A whole number that may be written as `1.5e9` or `1_500_000_000`."""

    name = "COUNT"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            count = Fraction(str(value).replace("_", ""))
        except (ValueError, ZeroDivisionError):
            self.fail(f"{value!r}: expected a number such as 1.5e9", param, ctx)
        if count.denominator != 1 or count < 1:
            self.fail(f"{value!r}: expected a whole number above zero", param, ctx)
        return int(count)


class _RatioType(click.ParamType[Fraction]):
    """A positive ratio: `4`, `2.5` or `8/3`."""

    name = "RATIO"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Fraction:
        try:
            ratio = Fraction(str(value))
        except (ValueError, ZeroDivisionError):
            self.fail(f"{value!r}: expected a ratio such as 4 or 8/3", param, ctx)
        if ratio <= 0:
            self.fail(f"{value!r}: expected a ratio above zero", param, ctx)
        return ratio


@click.group()
def contract() -> None:
    """What a model is: frozen dimensions, tokenizer and storage, with a digest.

    A contract is named by what `list` shows, by the path of a spec file, or by either followed by +ternary or +bitnet.
    """


@contract.command("list")
@json_option
def list_contracts(json_path: str | None) -> int:
    """List the contracts that ship with conform."""
    contracts = [load_contract(name) for name in shipped_contracts()]
    report = [{"name": c.name, "parameters": c.model.parameters, "digest": c.digest} for c in contracts]
    if not write_json(report, json_path):
        rows = [
            (c.name, f"{m.parameters:,}", f"{m.layers}/{m.hidden}/{m.heads}/{m.kv_heads}/{m.ffn}", m.vocab, c.digest)
            for c in contracts
            for m in (c.model,)
        ]
        print_table(("contract", "parameters", "layers/hidden/heads/kv/ffn", "vocab", "sha256"), rows)
    return 0


@contract.command()
@click.argument("name")
@json_option
def show(name: str, json_path: str | None) -> int:
    """Show the contract NAME: every field, the parameter count, the digest."""
    spec = load_contract(name)
    report = dataclasses.asdict(spec) | {"parameters": spec.model.parameters, "digest": spec.digest}
    if not write_json(report, json_path):
        click.echo(dump_contract(spec), nl=False)
        click.echo(f"\n# {spec.model.parameters:,} parameters in {len(inventory(spec.model))} tensors")
        click.echo(f"# sha256 {spec.digest}")
    return 0


@contract.command("solve")
@click.option("--params", "budget", type=_CountType(), required=True, help="The parameter budget, such as 1.5e9.")
@click.option("--layers", type=_RangeType(), required=True)
@click.option("--hidden", type=_RangeType(), required=True)
@click.option("--heads", type=_RangeType(), required=True)
@click.option("--kv-heads", type=_RangeType(), required=True)
@click.option("--head-dim", type=click.IntRange(2, 4096), default=128, show_default=True)
@click.option("--vocab", type=_CountType(), default=32000, show_default=True)
@click.option("--ffn-mult", type=_RatioType(), help="ffn is this many times hidden.")
@click.option("--ffn-multiple-of", type=_CountType(), help="ffn is any multiple of this, 8/3 to 4 times hidden.")
@click.option("--any-q-width", is_flag=True, help="Let heads × head-dim differ from hidden (a multiple of 256).")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many to list.")
@json_option
def solve_dimensions(
    budget: int,
    layers: range,
    hidden: range,
    heads: range,
    kv_heads: range,
    head_dim: int,
    vocab: int,
    ffn_mult: Fraction | None,
    ffn_multiple_of: int | None,
    any_q_width: bool,
    limit: int,
    json_path: str | None,
) -> int:
    """Find the dimensions nearest to a parameter budget, with what stands against each.

    Candidates that no quantisation or attention could use are listed after all others.
    """
    space = SearchSpace(
        layers, hidden, heads, kv_heads, head_dim, vocab, ffn_mult, ffn_multiple_of, square=not any_q_width
    )
    candidates = solve(space, budget, limit=limit)
    if not write_json([_candidate_to_json(c, budget) for c in candidates], json_path):
        headings = ("layers", "hidden", "heads", "kv", "ffn", "output", "parameters", "distance", "obstacles")
        print_table(headings, [_candidate_row(c, budget) for c in candidates])
    return 0


@contract.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--contract", "name", help="The contract; without it, the one the checkpoint was trained under.")
@json_option
def check(checkpoint: Path, name: str | None, json_path: str | None) -> int:
    """Check the tensors of CHECKPOINT against a contract: all violations at once."""
    from conform.core.checkpoint.checkpoint import contract_of, open_checkpoint

    opened = open_checkpoint(checkpoint)
    spec = contract_of(opened, name)
    if spec.model.tied_embeddings:
        opened = opened.without_tied_copy()
    findings = check_tensors(opened.tensors, spec.model)
    report = {"contract": spec.name, "digest": spec.digest, "findings": [f.to_json() for f in findings]}
    if not write_json(report, json_path):
        if findings:
            print_findings(findings)
        verdict = "violates" if failed(findings) else "meets"
        click.echo(f"{checkpoint} {verdict} contract {spec.name} ({spec.digest[:12]}), {len(opened.tensors)} tensors")
    return int(failed(findings))


@contract.command("diff")
@click.argument("left")
@click.argument("right")
@json_option
def diff_contracts(left: str, right: str, json_path: str | None) -> int:
    """Show where the contracts LEFT and RIGHT differ; exit status 1 when they do."""
    differences = diff(load_contract(left), load_contract(right))
    if not write_json([{"key": d.key, "left": d.left, "right": d.right} for d in differences], json_path):
        if differences:
            print_table(("key", left, right), [(d.key, d.left, d.right) for d in differences])
        else:
            click.echo(f"{left} and {right} are the same contract")
    return int(bool(differences))


@contract.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the spec file here.")
@click.option("--name", help="The contract's name; by default the folder's.")
@json_option
def infer(checkpoint: Path, output: Path | None, name: str | None, json_path: str | None) -> int:
    """Show the contract that a Hugging Face CHECKPOINT's config.json describes, and where each field comes from.

    Of a GGUF file that carries no contract, show the one that its keys describe.
    """
    from conform.core.checkpoint.inference import infer_checkpoint

    if checkpoint.suffix == ".gguf" and checkpoint.is_file():
        return _infer_gguf(checkpoint, output, name, json_path)
    inferred = infer_checkpoint(checkpoint, name)
    if output is not None:
        check_replaceable(output, "name = ")
        write_text_atomically(output, dump_contract(inferred.contract))
    if not write_json(inferred.to_json(), json_path):
        print_table(("field", "value", "from"), [(o.field, json.dumps(o.value), o.source) for o in inferred.origins])
        if inferred.ignored:
            click.echo()
            print_table(
                ("ignored", "value", "because"), [(i.key, json.dumps(i.value)[:80], i.why) for i in inferred.ignored]
            )
        click.echo(f"\n{inferred.contract.name}: {inferred.summary}")
    return 0


def _infer_gguf(file: Path, output: Path | None, name: str | None, json_path: str | None) -> int:
    from conform.core.gguf.read import read_gguf
    from conform.core.verify.implied import implied_contract

    implied = implied_contract(read_gguf(file))
    spec = dataclasses.replace(implied, name=name or implied.name)
    if output is not None:
        check_replaceable(output, "name = ")
        write_text_atomically(output, dump_contract(spec))
    if not write_json({"contract": to_mapping(spec), "digest": spec.digest}, json_path):
        click.echo(dump_contract(spec), nl=False)
    return 0


def _candidate_row(candidate: Candidate, budget: int) -> tuple[object, ...]:
    return (
        candidate.layers,
        candidate.hidden,
        candidate.heads,
        candidate.kv_heads,
        candidate.ffn,
        "tied" if candidate.tied else "untied",
        f"{candidate.parameters:,}",
        f"{100 * (candidate.parameters - budget) / budget:+.3f} %",
        "; ".join(obstacle.text for obstacle in candidate.obstacles()) or "none",
    )


def _candidate_to_json(candidate: Candidate, budget: int) -> dict[str, object]:
    fields = ("layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab", "tied", "parameters")
    return {field: getattr(candidate, field) for field in fields} | {
        "distance": candidate.parameters - budget,
        "obstacles": [{"text": o.text, "blocking": o.blocking} for o in candidate.obstacles()],
    }
