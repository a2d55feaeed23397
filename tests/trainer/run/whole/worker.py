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
from conform.trainer.run import recorder
from conform.trainer.run.folder import RunFolder
from conform.trainer.run.launch import launch
from conform.trainer.run.live import SilentView
from conform.trainer.run.request import TrainRequest, load_request


def main() -> None:
    recorder.peak_flops = lambda device, dtype: 1e12  # measuring it takes longer than such a run
    for _ in range(int(sys.argv[2]) if len(sys.argv) > 2 else 0):
        child = os.fork()
        if child == 0:
            break
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGKILL:
            raise SystemExit("the process was not killed as often as it was to be")
    work()


def work() -> None:
    runs = json.loads(Path(sys.argv[1]).read_text())["runs"]
    requests = [load_request(request(planned)) for planned in runs]
    world = join(requests[0].settings)
    for planned, asked in zip(runs, requests, strict=True):
        kills = {int(step): ranks for step, ranks in planned.get("kill", {}).items()}
        launch(asked, world, DeadlyView(kills, asked.out, world.rank))
    leave(world)
    exit_worker(0)


def request(planned: dict) -> TrainRequest:
    out = Path(planned["out"])
    if RunFolder(out).exists():
        return TrainRequest(out, True, None, None, None, {})
    return TrainRequest(out, False, planned["contract"], Path(planned["data"]), None, planned["values"])


class DeadlyView(SilentView):
    """Kills its process, once after each of these steps, when its rank is among those to die."""

    def __init__(self, kills: dict[int, list[int]], out: Path, rank: int) -> None:
        self.kills, self.out, self.rank = kills, out, rank

    def step(self, step: int, values: object) -> None:
        died = self.out.with_name(f"{self.out.name}-died-{step}-{self.rank}")
        if self.rank in self.kills.get(step, []) and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
