"""Trains two models for some steps in one process, plain and under FSDP2, and prints both curves as JSON."""

import json
import sys

import torch
import torch.distributed as dist
from torch.distributed import HashStore

from conform.contract.load import load_contract
from conform.trainer.config import TrainConfig
from conform.trainer.distributed.fsdp import build_model
from conform.trainer.distributed.world import World, exit_worker
from conform.trainer.run.optimizer import build_optimizer
from conform.trainer.run.step import train_step


def curve(spec, config, *, sharded):
    world = World(0, 1, torch.device("cpu"))
    model = build_model(spec, config, world, sharded=sharded)
    optimizer = build_optimizer(model, config)
    generator = torch.Generator().manual_seed(1)
    found = []
    for step in range(config.steps):
        tokens = torch.randint(0, spec.vocab, (config.batch, config.sequence + 1), generator=generator)
        result = train_step(model, optimizer, tokens, step, config, world)
        found.append([result.loss, result.grad_norm])
    return found


torch.use_deterministic_algorithms(True)
dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
curves = {}
for contract in sys.argv[1:]:
    for dtype in ("f32", "bf16"):
        config = TrainConfig(steps=6, batch=4, micro_batch=2, sequence=32, dtype=dtype, lr=3e-3)
        spec = load_contract(contract).model
        curves[f"{contract} {dtype}"] = [curve(spec, config, sharded=flag) for flag in (False, True)]
print(json.dumps(curves))
exit_worker(0)
