"""Report: a run's curves and digests as one self-contained HTML page."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from conform.trainer.checkpoints.store import CheckpointStore
from conform.trainer.errors import TrainError
from conform.trainer.run.folder import RunFolder, RunRecord
from conform.trainer.run.metrics import METRICS_NAME, read_metrics

__all__ = ["Curve", "curves", "run_report"]

_TEMPLATE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse } td, th { padding: .15rem .9rem .15rem 0; text-align: left; vertical-align: top }
td { font-variant-numeric: tabular-nums } code { font-size: .85em; overflow-wrap: anywhere }
figure { margin: 1rem 0 } svg { max-width: 100%; height: auto } .alarm { color: #a40000; font-weight: 600 }
</style>
<h1>{{ title }}</h1>
<p>{{ summary }}</p>
{% for alarm in alarms %}<p class="alarm">{{ alarm }}</p>
{% endfor %}
{% for figure in figures %}<figure>{{ figure | safe }}</figure>
{% endfor %}
{% for table in tables %}<h2>{{ table.title }}</h2>
<table>{% if table.head %}<tr>{% for cell in table.head %}<th>{{ cell }}</th>{% endfor %}</tr>{% endif %}
{% for row in table.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% endfor %}
</html>
"""


@dataclass(frozen=True, slots=True)
class Curve:
    """One figure: named series of (step, value), drawn on a logarithmic axis when asked."""

    title: str
    series: Mapping[str, Sequence[tuple[int, float]]]
    logarithmic: bool = False


def run_report(run: Path) -> str:
    """The HTML page of a run, finished or not.

    Raises TrainError when the folder holds no run, nothing was measured yet, or the packages that draw are missing.
    """
    record = RunFolder(run).read_record()
    records = list(read_metrics(run))
    if not any(entry["kind"] == "step" for entry in records):
        raise TrainError(f"{run}: no step was recorded yet; train first")
    try:
        import jinja2
    except ImportError as error:
        raise TrainError("a report needs jinja2 and matplotlib; pip install 'gguf-conform[report]'") from error
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    try:
        return environment.from_string(_TEMPLATE).render(
            title=f"{record.contract.name}: {run.resolve().name}",
            summary=_summary(record, records),
            alarms=[entry["alarm"] for entry in records if entry["kind"] == "judge" and entry["alarm"]],
            figures=[_draw(curve) for curve in curves(records) if any(curve.series.values())],
            tables=_tables(run, record, records),
        )
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise TrainError(f"{run / METRICS_NAME}: a record is not as conform writes it: {error!r}") from error


def curves(records: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """Everything that the records of a run let one draw."""
    steps = [entry for entry in records if entry["kind"] == "step"]
    held_out = [entry for entry in records if entry["kind"] == "held_out"]
    judged = [entry for entry in records if entry["kind"] == "judge"]
    names = dict.fromkeys(entry["quantizer"] for entry in judged)
    return [
        Curve("loss, nats per token", {"train": _points(steps, "loss"), "held out": _points(held_out, "loss")}),
        Curve("held-out bits per byte", {"held out": _points(held_out, "bits_per_byte")}),
        Curve("learning rate", {"learning rate": _points(steps, "lr")}),
        Curve("norm of the gradient, before clipping", {"norm": _points(steps, "grad_norm")}, logarithmic=True),
        Curve("tokens per second", {"tokens/s": _points(steps, "tokens_per_second")}),
        Curve(
            "cost of quantisation: KL, nats per token", {n: _points(judged, "kl", n) for n in names}, logarithmic=True
        ),
        Curve("cost of quantisation: loss added", {n: _points(judged, "delta_nll", n) for n in names}),
    ]


def _points(entries: Sequence[Mapping[str, Any]], key: str, quantizer: str | None = None) -> list[tuple[int, float]]:
    wanted = (entry for entry in entries if quantizer is None or entry["quantizer"] == quantizer)
    return [(entry["step"], entry[key]) for entry in wanted if entry.get(key) is not None]


def _draw(curve: Curve) -> str:
    """The curve as an SVG element; the same bytes for the same data."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TrainError("a report needs jinja2 and matplotlib; pip install 'gguf-conform[report]'") from error
    with mpl.rc_context({"svg.hashsalt": "conform", "svg.fonttype": "none"}):
        figure = Figure(figsize=(9, 3), layout="constrained")
        axes = figure.add_subplot()
        for name, points in curve.series.items():
            steps, values = zip(*points, strict=True) if points else ((), ())
            axes.plot(steps, values, label=name, linewidth=1, marker="o" if len(points) < 40 else "", markersize=3)
        axes.set_title(curve.title, loc="left", fontsize=10)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if curve.logarithmic and all(value > 0 for points in curve.series.values() for _, value in points):
            axes.set_yscale("log")
        if len(curve.series) > 1:
            axes.legend(frameon=False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def _summary(record: RunRecord, records: Sequence[Mapping[str, Any]]) -> str:
    steps = [entry for entry in records if entry["kind"] == "step"]
    held_out = [entry for entry in records if entry["kind"] == "held_out"]
    text = (
        f"{record.contract.model.parameters:,} parameters, {steps[-1]['tokens']:,} tokens in {steps[-1]['step']} of "
        f"{record.config.steps} steps; training loss {steps[0]['loss']:.3f} → {steps[-1]['loss']:.3f}"
    )
    if held_out:
        last = held_out[-1]
        factor = last["unigram_perplexity"] / last["perplexity"]
        text += (
            f"; held-out perplexity {last['perplexity']:.2f} ({last['bits_per_byte']:.3f} bits per byte), {factor:.1f} "
            f"times better than token frequencies alone ({last['unigram_perplexity']:.1f})"
        )
    return text + "."


@dataclass(frozen=True, slots=True)
class _Table:
    title: str
    rows: Sequence[tuple[object, ...]]
    head: tuple[str, ...] = ()


def _tables(run: Path, record: RunRecord, records: Sequence[Mapping[str, Any]]) -> list[_Table]:
    held_out = [entry for entry in records if entry["kind"] == "held_out"]
    judged = [entry for entry in records if entry["kind"] == "judge"]
    digests = [
        ("contract", record.contract.digest),
        ("tokenizer", record.tokenizer_digest),
        ("data", record.data_digest),
    ]
    tables = [
        _Table(
            "Held out",
            [_numbers(entry, "loss", "perplexity", "bits_per_byte") for entry in held_out],
            head=("step", "loss", "perplexity", "bits per byte"),
        ),
        _Table(
            "Quantisations judged",
            [(*_numbers(entry, "kl", "kl_p99", "delta_nll"), entry["quantizer"]) for entry in judged],
            head=("step", "KL", "KL, 99th percentile", "loss added", "quantisation"),
        ),
        _Table("Checkpoints", [(f"step-{step:08d}",) for step in CheckpointStore(run).steps()]),
        _Table("Bound to, by sha256", digests),
        _Table("Settings", list(asdict(record.config).items())),
    ]
    return [table for table in tables if table.rows]


def _numbers(entry: Mapping[str, Any], *keys: str) -> tuple[str, ...]:
    values = (entry.get(key) for key in keys)
    return (str(entry["step"]), *("impossible" if v is None or math.isnan(v) else f"{v:.5g}" for v in values))
