"""Judge a runtime: does it compute with this GGUF file what PyTorch computes?

    python examples/judge_runtime.py GGUF [PROGRAM]

Without PROGRAM goref is judged, conform's own reference runtime in Go. The checkpoint that the file was exported from
must lie beside it.
"""

import sys
from pathlib import Path

from conform.core.errors import ConformError
from conform.parity import Limits, Scope, judge_runtime
from conform.plugins.host import load_registry


def main(model: Path, program: Path | None = None) -> int:
    """The exit status: 0 when the runtime conforms."""
    scope = Scope(prompts=("The capital of France is",), max_tokens=8, forced_positions=8, longest=64)
    limits = Limits(seconds=30.0, memory=2 << 30)
    verdict = judge_runtime(model, program, registry=load_registry(), scope=scope, limits=limits)
    for rung in verdict.rungs:
        print(f"{rung.rung:15}{rung.status:9}{rung.compared} {rung.unit}  {rung.reason}")
        for number in rung.measurements:
            bound = "" if number.tolerance is None else f"at most {number.tolerance:.3g}"
            print(f"    {number.measured:<10.3g}{bound:18}{number.name}")
    print("conforms" if verdict.passed else "does not conform")
    return 0 if verdict.passed else 1


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), *map(Path, sys.argv[2:3])))
    except ConformError as error:  # what cannot be judged at all; a bad runtime is a verdict, not an error
        sys.exit(f"{error}")
