"""Export a checkpoint in two quantisations, and check each file against its contract.

    python examples/export_and_verify.py CHECKPOINT

A checkpoint of `conform train` knows its contract; for another one it is inferred from config.json. ExportRequest can
also name one: `contract="nano"`, or the path of a spec file.
"""

import sys
from pathlib import Path

from conform.core.errors import ConformError
from conform.core.export import ExportRequest, export_checkpoint
from conform.core.verify import verify_file
from conform.plugins.host import load_registry


def main(checkpoint: Path) -> int:
    """The exit status: 0 when every file conforms."""
    registry = load_registry()
    request = ExportRequest(quants=("f16", "q8_0"))
    status = 0
    for report in export_checkpoint(checkpoint, request, registry, progress=print):
        verification = verify_file(report.path, registry)
        print(f"{report.path}  {report.sha256}  {'conforms' if verification.conforms else 'does not conform'}")
        for finding in verification.findings:
            print(f"  {finding.severity}: {finding}")
        status = status if verification.conforms else 1
    return status


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1])))
    except ConformError as error:  # everything that a user can cause; its text is one sentence
        sys.exit(f"{error}")
