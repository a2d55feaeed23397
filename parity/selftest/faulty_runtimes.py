"""Faulty runtimes: goref with one fault planted in its source, each of which a verdict must catch."""

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from conform.parity.errors import RuntimeDriverError
from conform.parity.goref.toolchain import GOREF_SOURCES, build_goref
from conform.parity.verdict import RungName

__all__ = ["FAULTY_RUNTIMES", "FaultyRuntime", "build_faulty", "edited_sources"]


@dataclass(frozen=True, slots=True)
class FaultyRuntime:
    """A planted fault: what it is, the rung that must fail for it, and the (file, old, new) edits that make it.

    `only` names the tensor type without which the fault has no effect, "" when there is none.
    """

    name: str
    what: str
    breaks: RungName
    edits: tuple[tuple[str, str, str], ...]
    only: str = ""


def build_faulty(fault: FaultyRuntime) -> Path:
    """The binary, built from a copy of goref's sources.

    Raises RuntimeDriverError when an edit does not apply exactly once, or the build fails.
    """
    with tempfile.TemporaryDirectory(prefix="conform-goref-") as folder:
        return build_goref("bitnet", edited_sources(fault.edits, Path(folder) / "goref"))


def edited_sources(edits: Iterable[tuple[str, str, str]], target: Path) -> Path:
    """Copy goref's sources to `target`, without their tests, and make the (file, old, new) edits; returns `target`.

    Raises RuntimeDriverError when an edit does not apply exactly once, so that a fault cannot silently be none.
    """
    shutil.copytree(GOREF_SOURCES, target, ignore=shutil.ignore_patterns("*_test.go", "*.py"))
    for name, old, new in edits:
        text = (target / name).read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise RuntimeDriverError(f"goref's {name} holds {old!r} {text.count(old)} times, expected once")
        (target / name).write_text(text.replace(old, new), encoding="utf-8")
    return target


_FORWARD = "internal/model/forward.go"
_ATTENTION = "internal/model/attention.go"
_LOAD = "internal/model/load.go"
_SAMPLER = "internal/sample/sampler.go"
_FEWER_LAYERS = (
    (_LOAD, "range m.Config.Layers {", "range m.Config.Layers - 1 {"),
    (_LOAD, "if len(m.Layers) != config.Layers {", "if false {"),
    (_LOAD, "return m, l.nothingLeft()", "return m, nil"),
)

FAULTY_RUNTIMES: Sequence[FaultyRuntime] = (
    FaultyRuntime(
        "activation",
        "squared ReLU in place of SiLU",
        "implementation",
        ((_FORWARD, "activate := silu", "activate := squaredRelu"),),
    ),
    FaultyRuntime(
        "kv-head-map",
        "query heads dealt out to kv heads in turn",
        "implementation",
        ((_ATTENTION, "head * m.KVHeads / m.Heads * m.HeadDim", "head % m.KVHeads * m.HeadDim"),),
    ),
    FaultyRuntime(
        "rope-pairing",
        "split halves rotated in place of neighbours",
        "implementation",
        (
            (_ATTENTION, "make([]float32, pairs), 1}", "make([]float32, pairs), pairs}"),
            (_ATTENTION, "head + 2*i", "head + i"),
        ),
    ),
    FaultyRuntime(
        "rope-base",
        "the file's rope base ignored",
        "implementation",
        ((_ATTENTION, "float64(m.RopeBase)", "500000.0"),),
    ),
    FaultyRuntime(
        "attention-scale",
        "scores divided by the root of the hidden size",
        "implementation",
        ((_ATTENTION, "float32(1 / math.Sqrt(float64(m.HeadDim)))", "float32(1 / math.Sqrt(float64(m.Hidden)))"),),
    ),
    FaultyRuntime(
        "norms-off-by-one",
        "1 added to the weights of every norm",
        "implementation",
        ((_FORWARD, "float32(v*inverse) * weight[i]", "float32(v*inverse) * (weight[i] + 1)"),),
    ),
    FaultyRuntime("fewer-layers", "the last layer not loaded", "implementation", _FEWER_LAYERS),
    FaultyRuntime(
        "fewer-layers-denied",
        "the last layer not loaded, and the trace says it was",
        "implementation",
        (
            *_FEWER_LAYERS,
            ("internal/observe/trace.go", "position, token, len(m.Layers))", "position, token, m.Config.Layers)"),
        ),
    ),
    FaultyRuntime(
        "i2_s-lanes",
        "two of the four lanes of a block exchanged",
        "weights",
        (
            ("internal/quant/i2s.go", "trits[j] = int8(b>>6) - 1", "trits[j] = int8(b&3) - 1"),
            ("internal/quant/i2s.go", "trits[j+96] = int8(b&3) - 1", "trits[j+96] = int8(b>>6) - 1"),
        ),
        only="i2_s",
    ),
    FaultyRuntime(
        "float-activations",
        "activations of i2_s layers not quantised to int8",
        "implementation",
        ((_LOAD, "|| l.floatTernary {", "|| true {"),),
        only="i2_s",
    ),
    FaultyRuntime(
        "prompt-dropped",
        "the prompt shown but never run",
        "tokens",
        (("cmd/bitnet/main.go", "vocabulary.Encode(o.prompt)", 'vocabulary.Encode("")'),),
    ),
    FaultyRuntime(
        "merges",
        "the lowest score merged first",
        "tokens",
        (("internal/vocab/encode.go", "return c[i].score > c[j].score", "return c[i].score < c[j].score"),),
    ),
    FaultyRuntime(
        "temperature-ignored",
        "--temp does nothing but switch sampling on",
        "sampling",
        ((_SAMPLER, "logits[token] / s.options.Temperature", "logits[token]"),),
    ),
    FaultyRuntime(
        "top-k-ignored",
        "--top-k does nothing",
        "sampling",
        ((_SAMPLER, "tokens[:min(s.options.TopK, len(tokens))]", "tokens"),),
    ),
    FaultyRuntime(
        "top-p-ignored", "--top-p does nothing", "sampling", ((_SAMPLER, "if s.options.TopP < 1 {", "if false {"),)
    ),
    FaultyRuntime(
        "seed-ignored",
        "--seed does nothing",
        "sampling",
        (("internal/sample/generator.go", "uint64(seed) ^", "uint64(7) ^"),),
    ),
    FaultyRuntime(
        "clock-as-seed",
        "the seed taken from the clock",
        "sampling",
        (
            ("internal/sample/generator.go", "package sample\n", 'package sample\n\nimport "time"\n'),
            ("internal/sample/generator.go", "uint64(seed) ^", "uint64(time.Now().UnixNano()) ^"),
        ),
    ),
)
