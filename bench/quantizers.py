"""Every quantizer against ggml's, side by side in one run: error and throughput.

    pip install 'gguf-conform[bench,report]'
    python bench/quantizers.py --checkpoint runs/NAME/checkpoints/step-00000300 --json quantizers.json \
        --markdown quantizers.md --plot quantizers.svg

Throughput is in millions of weights per second of CPU time, which a busy machine disturbs least; each repetition runs
ggml and every effort one after the other, and a ratio is the median over the repetitions. Errors are relative:
sqrt(sum w (x - y)^2 / sum w x^2), with w = 1 or the importance of the column.
"""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import click
import numpy as np
from ggml import Ggml, GgmlMissingError

from conform.core.checkpoint.checkpoint import open_checkpoint
from conform.core.cli.console import print_table
from conform.core.cli.output import write_json, write_text_atomically
from conform.core.errors import ConformError
from conform.core.quantizer import Effort, Float32, Packed, Quantizer, Tunable
from conform.plugins.host import load_registry

__all__ = ["main"]

EFFORTS: tuple[Effort, ...] = ("fast", "default", "best")
COLS = 2048
COPIED_ROWS = 4096  # 32 MiB of float32


@dataclass(frozen=True, slots=True)
class Result:
    """One quantizer on one kind of data: errors, and throughput in millions of weights per CPU-second."""

    type: str
    tool: str
    effort: str
    data: str
    importance: bool
    bits: float
    rel_rmse: float
    weighted_rel_rmse: float
    mw_per_cpu_s: float
    error_ratio: float | None
    speed_ratio: float | None


@dataclass(frozen=True, slots=True)
class Wall:
    """Throughput of one quantizer in millions of weights per second of wall time."""

    type: str
    tool: str
    one_thread: float
    two_threads: float


@dataclass(frozen=True, slots=True)
class Conversion:
    """Throughput per CPU-second of a type that only converts, and as a share of copying its values in float32."""

    type: str
    tool: str
    mw_per_cpu_s: float
    of_a_copy: float
    decoded_mw_per_cpu_s: float
    decoded_of_a_copy: float


def synthetic(kind: str, rows: int) -> Float32:
    """Weights like those of a layer: standard deviation 0.02 or, heavy-tailed, Student's t with 3 degrees."""
    rng = np.random.default_rng(1)
    values = rng.standard_normal((rows, COLS)) if kind == "gauss" else rng.standard_t(3, (rows, COLS))
    return (values * 0.02).astype(np.float32)


def trained(path: Path, rows: int) -> Float32:
    """Rows taken evenly from every matrix of a checkpoint, joined or cut to whole super-blocks and equal length.

    Raises ConformError when no matrix has rows of whole super-blocks.
    """
    checkpoint = open_checkpoint(path)
    matrices = [n for n, t in checkpoint.tensors.items() if len(t.shape) == 2 and t.shape[1] % 256 == 0]
    if not matrices:
        raise ConformError(f"{path}: no matrix has rows of a multiple of 256 values")
    pieces = [checkpoint.read(name).reshape(-1, 256) for name in matrices]
    wanted = rows * COLS // 256
    blocks = np.concatenate(pieces)
    chosen = np.linspace(0, len(blocks) - 1, min(wanted, len(blocks))).astype(int)
    usable = len(chosen) // (COLS // 256) * (COLS // 256)
    return np.ascontiguousarray(blocks[chosen[:usable]].reshape(-1, COLS))


def skewed_importance() -> Float32:
    """Columns that matter very differently, as measured ones do: log-normal times chi-square."""
    rng = np.random.default_rng(2)
    return (rng.lognormal(0, 1, COLS) * rng.chisquare(1, COLS)).astype(np.float32)


def relative_error(values: Float32, decoded: Float32, weights: Float32 | None = None) -> float:
    """sqrt(sum w (x - y)^2 / sum w x^2), summed in double precision."""
    w = 1.0 if weights is None else weights.astype(np.float64)
    difference = values.astype(np.float64) - decoded
    return float(np.sqrt((w * difference**2).sum() / (w * values.astype(np.float64) ** 2).sum()))


def _cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


@dataclass(frozen=True, slots=True)
class Contestant:
    """A way to quantize: by conform with an effort, or by ggml."""

    tool: str
    effort: str
    pack: Callable[[Float32, Float32 | None], Packed]
    unpack: Callable[[Packed], Float32]


def _contestants(quantizer: Quantizer, peer: Ggml | None, shape: tuple[int, ...]) -> Iterator[Contestant]:
    kind = quantizer.layout.ggml_type
    if peer is not None and peer.knows(kind) and not quantizer.layout.variant:
        peer.prepare(kind)

        def theirs(values: Float32, importance: Float32 | None) -> Packed:
            if importance is None and peer.needs_importance(kind):
                importance = np.ones(values.shape[1], np.float32)
            return peer.quantize(kind, values, importance)

        yield Contestant("ggml", "", theirs, lambda packed: peer.dequantize(kind, packed, shape[1]))
    for effort in EFFORTS if isinstance(quantizer, Tunable) else ("",):
        ours = quantizer.with_effort(effort) if isinstance(quantizer, Tunable) else quantizer
        yield Contestant("conform", effort, ours.quantize, lambda packed: quantizer.dequantize(packed, shape))


def _best_of_ggml(values: Float32, contestant: Contestant, packed: Packed) -> Float32:
    """What ggml decodes to without importance: given none or ones, whichever leaves less error."""
    ones = contestant.unpack(contestant.pack(values, np.ones(values.shape[1], np.float32)))
    own = contestant.unpack(packed)
    return min((own, ones), key=lambda decoded: relative_error(values, decoded))


def measure(
    quantizer: Quantizer, peer: Ggml | None, name: str, values: Float32, weights: Float32 | None, repeats: int
) -> list[Result]:
    """One type on one kind of data, by every tool and effort."""
    contestants = list(_contestants(quantizer, peer, values.shape))
    judge = skewed_importance()
    seconds: dict[int, list[float]] = {i: [] for i in range(len(contestants))}
    decoded: dict[int, Float32] = {}
    for i, contestant in enumerate(contestants):
        packed = contestant.pack(values, weights)  # also compiles, and warms caches
        decoded[i] = contestant.unpack(packed)
        if contestant.tool == "ggml" and weights is None:
            decoded[i] = _best_of_ggml(values, contestant, packed)
    for _ in range(repeats):
        for i, contestant in enumerate(contestants):
            seconds[i].append(_cpu_seconds(lambda c=contestant: c.pack(values, weights)))  # type: ignore[misc]
    own = weights is not None
    errors = [relative_error(values, decoded[i], judge if own else None) for i in seconds]
    has_peer = contestants[0].tool == "ggml"
    return [
        Result(
            type=quantizer.name,
            tool=contestant.tool,
            effort=contestant.effort,
            data=name,
            importance=own,
            bits=8 * quantizer.nbytes(values.shape) / values.size,
            rel_rmse=relative_error(values, decoded[i]),
            weighted_rel_rmse=relative_error(values, decoded[i], judge),
            mw_per_cpu_s=values.size / statistics.median(seconds[i]) / 1e6,
            error_ratio=errors[i] / errors[0] if has_peer and errors[0] else None,
            speed_ratio=statistics.median(a / b for a, b in zip(seconds[0], seconds[i], strict=True))
            if has_peer
            else None,
        )
        for i, contestant in enumerate(contestants)
    ]


def _wall(pack: Callable[[Float32], object], values: Float32, threads: int, repeats: int) -> float:
    """Millions of weights a second of wall time with so many threads, each given equal rows; the best repetition."""
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(repeats):
            start = time.perf_counter()
            list(pool.map(pack, np.array_split(values, threads)))
            best = max(best, values.size / (time.perf_counter() - start) / 1e6)
    return best


def measure_wall(quantizer: Quantizer, peer: Ggml | None, values: Float32, repeats: int) -> list[Wall]:
    """Wall time at one and two threads, gaussian data with importance, default effort."""
    weights = skewed_importance()
    found = []
    for contestant in _contestants(quantizer, peer, values.shape):
        if contestant.effort in {"", "default"}:
            speeds = [
                _wall(lambda rows, c=contestant: c.pack(rows, weights), values, threads, repeats)  # type: ignore[misc]
                for threads in (1, 2)
            ]
            found.append(Wall(quantizer.name, contestant.tool, *speeds))
    return found


def measure_conversion(quantizer: Quantizer, peer: Ggml | None, repeats: int) -> list[Conversion]:
    """A tensor that fits no cache copied and, right after that, converted and decoded again; by all tools in turn."""
    values = synthetic("gauss", COPIED_ROWS)
    room = np.zeros_like(values)
    contestants = list(_contestants(quantizer, peer, values.shape))
    packed = [contestant.pack(values, None) for contestant in contestants]  # also compiles
    seconds: list[list[tuple[float, float, float]]] = [[] for _ in contestants]
    for _ in range(repeats + 1):
        for contestant, its, own in zip(contestants, packed, seconds, strict=True):
            copy = _cpu_seconds(lambda: np.copyto(room, values))
            pack = _cpu_seconds(lambda c=contestant: c.pack(values, None))  # type: ignore[misc]
            own.append((copy, pack, _cpu_seconds(lambda c=contestant, p=its: c.unpack(p))))  # type: ignore[misc]
    return [
        Conversion(
            quantizer.name,
            contestant.tool,
            values.size / statistics.median(pack for _, pack, _ in own[1:]) / 1e6,
            statistics.median(copy / pack for copy, pack, _ in own[1:]),
            values.size / statistics.median(unpack for _, _, unpack in own[1:]) / 1e6,
            statistics.median(copy / unpack for copy, _, unpack in own[1:]),
        )
        for contestant, own in zip(contestants, seconds, strict=True)
    ]


def _ratio(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def error_rows(results: Sequence[Result]) -> Iterator[tuple[str, ...]]:
    """A line for each type, data and importance: relative error of ggml and of each effort, and the ratio."""
    groups: dict[tuple[str, str, bool], list[Result]] = {}
    for result in results:
        groups.setdefault((result.type, result.data, result.importance), []).append(result)
    for (name, data, importance), group in groups.items():
        by = {r.tool if r.tool == "ggml" else r.effort or "default": r for r in group}
        cells = [f"{_error(by[k]):.5f}" if k in by else "" for k in ("ggml", *EFFORTS)]
        ratios = [_ratio(by[k].error_ratio, 3) if k in by else "" for k in EFFORTS]
        bits = f"{group[0].bits:.4g}"
        yield (name, bits, data, "yes" if importance else "no", *cells, *ratios)


def _error(result: Result) -> float:
    return result.weighted_rel_rmse if result.importance else result.rel_rmse


def speed_rows(results: Sequence[Result]) -> Iterator[tuple[str, ...]]:
    """A line for each type: throughput per CPU-second of ggml and each effort (medians over data), and ratios."""
    for name in dict.fromkeys(r.type for r in results):
        mine = [r for r in results if r.type == name]
        by: dict[str, list[Result]] = {}
        for r in mine:
            by.setdefault(r.tool if r.tool == "ggml" else r.effort or "default", []).append(r)
        speeds = [
            f"{statistics.median(r.mw_per_cpu_s for r in by[k]):.1f}" if k in by else "" for k in ("ggml", *EFFORTS)
        ]
        ratios = [_range([r.speed_ratio for r in by.get(k, []) if r.speed_ratio]) for k in EFFORTS]
        yield (name, *speeds, *ratios)


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.1f}–{max(values):.1f}" if values else ""


def wall_rows(walls: Sequence[Wall]) -> Iterator[tuple[str, ...]]:
    """A line for each type and tool: wall throughput, and what the second thread brings."""
    for wall in walls:
        gain = wall.two_threads / wall.one_thread
        yield (wall.type, wall.tool, f"{wall.one_thread:.1f}", f"{wall.two_threads:.1f}", f"{gain:.2f}")


def conversion_rows(conversions: Sequence[Conversion]) -> Iterator[tuple[str, ...]]:
    """A line for each type and tool: throughput of encoding and of decoding, and their shares of a copy's."""
    for c in conversions:
        encoded = (f"{c.mw_per_cpu_s:.0f}", f"{c.of_a_copy:.2f}")
        yield (c.type, c.tool, *encoded, f"{c.decoded_mw_per_cpu_s:.0f}", f"{c.decoded_of_a_copy:.2f}")


ERROR_HEADINGS = ("type", "bits", "data", "importance", "ggml", *EFFORTS, *(f"{e}/ggml" for e in EFFORTS))
SPEED_HEADINGS = ("type", "ggml Mw/CPU-s", *EFFORTS, *(f"{e} ×" for e in EFFORTS))
WALL_HEADINGS = ("type", "tool", "1 thread Mw/s", "2 threads", "gain")
CONVERSION_HEADINGS = ("type", "tool", "Mw/CPU-s", "of a plain copy", "decoding Mw/CPU-s", "of a plain copy")


def as_markdown(headings: Sequence[str], rows: Iterator[tuple[str, ...]]) -> str:
    """A table in Markdown, numbers to the right."""
    lines = [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def facts(peer: Ggml | None, values: Mapping[str, Float32], repeats: int) -> dict[str, str]:
    """What the numbers depend on."""
    packages = ("gguf-conform", "numba", "numpy", "gguf")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "ggml": "none" if peer is None else peer.version,
        "processor": platform.machine(),
        "weights": ", ".join(f"{name} {rows.shape[0]} × {rows.shape[1]}" for name, rows in values.items()),
        "repetitions": str(repeats),
    }


def plot(results: Sequence[Result], path: Path) -> None:
    """Error against bits per weight on gaussian data: left without importance, right weighted."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "conform"
    from matplotlib import pyplot

    searched = {r.type for r in results if r.effort}
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 5), sharey=True)
    for axis, importance in zip(axes, (False, True), strict=True):
        shown = [r for r in results if r.data == "gauss" and r.importance == importance and r.type in searched]
        for tool, marker, colour in (("ggml", "o", "tab:gray"), ("conform", "^", "tab:red")):
            points = [r for r in shown if r.tool == tool and r.effort in {"", "default"}]
            axis.scatter([r.bits for r in points], [_error(r) for r in points], marker=marker, c=colour, label=tool)
            if tool == "conform":
                for r in points:
                    axis.annotate(
                        r.type, (r.bits, _error(r)), xytext=(-5, -9), textcoords="offset points", fontsize=8, ha="right"
                    )
        axis.set(
            xlabel="bits per weight",
            xlim=(1.2, 4.8),
            yscale="log",
            title=f"{'with' if importance else 'without'} importance",
        )
        axis.grid(visible=True, which="both", alpha=0.3)
    axes[0].set_ylabel("relative error, gaussian weights")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _peer() -> Ggml | None:
    try:
        return Ggml()
    except GgmlMissingError as error:
        click.echo(f"no peer: {error}", err=True)
        return None


@click.command()
@click.option("--quant", default="*", help="Which types, as a pattern; i2_s and tq* are meant for ternary weights.")
@click.option("--rows", default=256, show_default=True, help=f"Rows of {COLS} weights of each kind of data.")
@click.option("--repeats", default=5, show_default=True, help="Repetitions of every measurement of time.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Trained weights to measure on as well.")
@click.option("--json", "json_path", help="Write everything measured to this file.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Write the tables to this file.")
@click.option("--plot", "plot_path", type=click.Path(path_type=Path), help="Draw error against bits per weight.")
def main(
    quant: str,
    rows: int,
    repeats: int,
    checkpoint: Path | None,
    json_path: str | None,
    markdown: Path | None,
    plot_path: Path | None,
) -> None:
    """Measure every quantizer, and ggml's where there is one."""
    os.environ["CONFORM_THREADS"] = "1"  # threads that share a core would cost each other CPU time
    peer = _peer()
    data = {"gauss": synthetic("gauss", rows), "t3": synthetic("t3", rows)}
    if checkpoint is not None:
        data["trained"] = trained(checkpoint, rows)
    results: list[Result] = []
    walls: list[Wall] = []
    conversions: list[Conversion] = []
    for quantizer in (codec.quantizer for codec in load_registry().match(quant)):
        for name, values in data.items():
            for weights in (None, skewed_importance()) if isinstance(quantizer, Tunable) else (None,):
                results += measure(quantizer, peer, name, values, weights, repeats)
        if isinstance(quantizer, Tunable):
            walls += measure_wall(quantizer, peer, data["gauss"], repeats)
        else:
            conversions += measure_conversion(quantizer, peer, repeats)
        click.echo(f"{quantizer.name} measured", err=True)
    _report(results, walls, conversions, facts(peer, data, repeats), json_path, markdown, plot_path)


def _report(
    results: Sequence[Result],
    walls: Sequence[Wall],
    conversions: Sequence[Conversion],
    what: Mapping[str, str],
    json_path: str | None,
    markdown: Path | None,
    plot_path: Path | None,
) -> None:
    if json_path:
        measured = {"results": results, "wall": walls, "conversions": conversions}
        write_json({"facts": what} | {k: [asdict(v) for v in values] for k, values in measured.items()}, json_path)
    if plot_path:
        plot(results, plot_path)
    tables = (
        ("Error", ERROR_HEADINGS, list(error_rows(results))),
        ("Throughput per CPU-second", SPEED_HEADINGS, list(speed_rows(results))),
        ("Throughput per wall second", WALL_HEADINGS, list(wall_rows(walls))),
        ("Conversions, 32 MiB of values", CONVERSION_HEADINGS, list(conversion_rows(conversions))),
    )
    for title, headings, lines in tables:
        print_table(headings, lines, title=title)
    if markdown:
        parts = ["; ".join(f"{key} {value}" for key, value in what.items()) + "\n"]
        parts += [f"## {title}\n\n{as_markdown(headings, iter(lines))}" for title, headings, lines in tables]
        write_text_atomically(markdown, "\n".join(parts))


if __name__ == "__main__":
    try:
        main()
    except ConformError as error:
        sys.exit(f"quantizers: {error}")
