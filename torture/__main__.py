"""Torture: run the campaigns and print a table of kind, tried, held, failed.

    python -m torture --seconds 3600                 as long as that, shared by the campaigns
    python -m torture --sample 40                    a fixed number of tries of each kind, the same in every run
    python -m torture --campaign hostile --only gguf --seed 7

Exit status: 0 when everything held, 1 when something failed.
"""

import argparse
import importlib
import sys
from typing import cast

from torture.campaign import Budget, Campaign, Row

# Each is a module with a function `run`; it is imported when it is run.
CAMPAIGNS = {
    "hostile": "torture.hostile",
    "crash": "torture.crash",
}
_SHOWN_FAILURES = 5


def main() -> int:
    """Run what is asked for; 1 when something failed."""
    asked = _parse()
    names = [asked.campaign] if asked.campaign else list(CAMPAIGNS)
    budget = Budget(asked.seconds / len(names), asked.sample, asked.seed, asked.only)
    print(f"{'kind':<44} {'tried':>9} {'held':>9} {'failed':>7}", flush=True)
    rows = [row for name in names for row in _rows(name, budget)]
    _print(Row("all", sum(row.tried for row in rows), tuple(failure for row in rows for failure in row.failures)), 0)
    return int(any(row.failures for row in rows))


def _rows(name: str, budget: Budget) -> list[Row]:
    campaign = cast(Campaign, importlib.import_module(CAMPAIGNS[name]))
    rows = []
    for row in campaign.run(budget):
        _print(row, _SHOWN_FAILURES)
        rows.append(row)
    return rows


def _print(row: Row, shown: int) -> None:
    print(f"{row.kind:<44} {row.tried:>9,} {row.held:>9,} {len(row.failures):>7,}")
    for failure in row.failures[:shown]:
        print(f"    {failure}")
    sys.stdout.flush()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m torture", description="Try to make conform fail.")
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long, all campaigns together")
    parser.add_argument("--sample", type=int, help="instead of seconds: tries of each kind")
    parser.add_argument("--seed", type=int, default=1, help="equal seeds, equal tries")
    parser.add_argument("--campaign", choices=CAMPAIGNS, help="this one only")
    parser.add_argument("--only", default="", help="this kind only, such as gguf")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
