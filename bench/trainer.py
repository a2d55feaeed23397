"""Tokens per second and peak memory of a training step, beside transformers' Llama at the same shapes.

    pip install 'transformers>=4.50'
    python bench/trainer.py [--contract nano] [--batch 8] [--sequence 256] [--json FILE]

Each subject runs in a process of its own, so that its memory is its own, and they take turns, so that load affects all
alike; the best turn counts. Both train in bfloat16 products over float32 weights, with the same fused AdamW and
clipping. The last column relates the model's operations per second to the best matrix product of the same machine and
dtype. On a machine that is busy otherwise, compare tokens per second of CPU time, and set OMP_NUM_THREADS=1.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import torch

from conform.contract.load import load_contract
from conform.contract.spec import ModelSpec
from conform.trainer.config import TrainConfig
from conform.trainer.distributed.allocator import keep_freed_memory
from conform.trainer.model.model import Llama
from conform.trainer.planning.flops import flops_per_token, peak_flops

SUBJECTS = ("conform", "transformers", "conform, recomputing", "transformers, recomputing", "conform, ternary")


def main() -> None:
    arguments = parse()
    if arguments.subject:
        print(json.dumps(measure(arguments)))
        return
    found: dict[str, dict[str, float]] = {}
    for _ in range(arguments.turns):
        for subject in SUBJECTS:
            one = run(subject)
            best = found.setdefault(subject, one)
            for name in ("tokens_per_second", "per_cpu_second", "matmul_flops"):
                best[name] = max(best[name], one[name])
    matmul = max(one["matmul_flops"] for one in found.values())
    for values in found.values():
        values["of_matmul"] = values["tokens_per_second"] * values.pop("flops_per_token") / matmul
    print(f"{'':26}{'tokens/s':>12}{'per CPU s':>12}{'peak MiB':>12}{'of matmul':>12}")
    for subject, values in found.items():
        speeds = f"{values['tokens_per_second']:12,.0f}{values['per_cpu_second']:12,.0f}"
        numbers = f"{speeds}{values['peak_mib']:12,.0f}{values['of_matmul']:12.1%}"
        print(f"{subject:26}{numbers}")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(found, file, indent=1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contract", default="nano")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--sequence", type=int, default=256)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json")
    parser.add_argument("--subject", help=argparse.SUPPRESS)
    return parser.parse_args()


def run(subject: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, *sys.argv, "--subject", subject], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    spec = load_contract(arguments.contract + ("+ternary" if "ternary" in arguments.subject else "")).model
    if arguments.subject.startswith("conform"):
        keep_freed_memory()
    loss_of = build(arguments.subject, spec, device)
    parameters = list(loss_of.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, spec.vocab, (arguments.batch, arguments.sequence + 1), generator=generator).to(device)
    seconds, cpu_seconds = [], []
    for _ in range(arguments.steps + 2):
        start, cpu_start = time.perf_counter(), time.process_time()
        loss_of(tokens).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    speed = arguments.batch * arguments.sequence / min(seconds[2:])
    on_cpu = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    memory = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else on_cpu
    return {
        "tokens_per_second": speed,
        "per_cpu_second": arguments.batch * arguments.sequence / min(cpu_seconds[2:]),
        "peak_mib": memory,
        "flops_per_token": flops_per_token(spec, arguments.sequence),
        "matmul_flops": peak_flops(device, torch.bfloat16),
    }


def build(subject: str, spec: ModelSpec, device: torch.device) -> torch.nn.Module:
    if subject.startswith("conform"):
        recompute, chunk = "recomputing" in subject, TrainConfig().loss_chunk
        model = Llama(spec, compute_dtype=torch.bfloat16, recompute=recompute, loss_chunk=chunk).to(device)
        for name, parameter in model.named_parameters():
            parameter.data.copy_(model.initial(name, 1))
        return Ours(model)
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=spec.hidden,
        intermediate_size=spec.ffn,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        vocab_size=spec.vocab,
        max_position_embeddings=spec.context,
        rms_norm_eps=spec.norm_eps,
        tie_word_embeddings=spec.tied_embeddings,
        use_cache=False,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config).to(device)
    if "recomputing" in subject:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return Theirs(model.train(), device.type)


class Ours(torch.nn.Module):
    def __init__(self, model: Llama) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model(tokens[:, :-1], tokens[:, 1:]) / tokens[:, 1:].numel()


class Theirs(torch.nn.Module):
    def __init__(self, model: torch.nn.Module, device: str) -> None:
        super().__init__()
        self.model, self.device = model, device

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        # Their weights are float32 as well: autocast runs the products in bfloat16.
        with torch.autocast(self.device, torch.bfloat16):
            logits = self.model(tokens[:, :-1]).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())


if __name__ == "__main__":
    main()
