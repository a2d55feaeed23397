"""One process of some runs: started by torchrun or alone, with a plan as JSON; kills itself where the plan says so.

plan: {"runs": [{"out", "contract", "data", "values", "kill": {step: [ranks]}}, …]}; a run that exists is resumed.
`worker.py PLAN` is a process of torchrun's, which starts it again. `worker.py PLAN RESTARTS` is a single one, started
again by a parent that has done nothing but import; that saves seconds each time.
"""

import json
import os
import signal
import sys
from pathlib import Path

from conform.trainer.distributed.world import exit_worker, join, leave
from conform.trainer.run import loop as run
from conform.trainer.run.folder import RunFolder
from conform.trainer.run.launch import launch
from conform.trainer.run.live import SilentView
from conform.trainer.run.request import Request, settings


def main() -> None:
    run.peak_flops = lambda device, dtype: 1e12  # measuring it takes longer than such a run
    for _ in range(int(sys.argv[2]) if len(sys.argv) > 2 else 0):
        child = os.fork()
        if child == 0:
            break
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGKILL:
            raise SystemExit("the process was not killed as often as it was to be")
    work()


def work() -> None:
    runs = json.loads(Path(sys.argv[1]).read_text())["runs"]
    requests = [request(planned) for planned in runs]
    world = join(settings(requests[0]))
    for planned, asked in zip(runs, requests, strict=True):
        die_at({int(step): ranks for step, ranks in planned.get("kill", {}).items()}, asked.out)
        launch(asked, world, SilentView())
    leave(world)
    exit_worker(0)


def request(planned: dict) -> Request:
    out = Path(planned["out"])
    if RunFolder(out).exists():
        return Request(out, True, None, None, None, {})
    return Request(out, False, planned["contract"], Path(planned["data"]), None, planned["values"])


def die_at(kills: dict[int, list[int]], out: Path) -> None:
    def record(self, *measured):
        honest(self, *measured)
        died = out.with_name(f"{out.name}-died-{self.step}-{self.world.rank}")
        if self.world.rank in kills.get(self.step, []) and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    run._Run._record = record


honest = run._Run._record

if __name__ == "__main__":
    main()
