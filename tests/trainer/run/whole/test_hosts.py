"""Two hosts: torchrun in two network namespaces, joined by a virtual cable, gives the run of one host."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

CABLE = """
ip netns add {a} && ip netns add {b}
ip link add {a} type veth peer name {b}
ip link set {a} netns {a} && ip link set {b} netns {b}
ip -n {a} addr add 10.77.0.1/24 dev {a} && ip -n {b} addr add 10.77.0.2/24 dev {b}
ip -n {a} link set {a} up && ip -n {b} link set {b} up
ip -n {a} link set lo up && ip -n {b} link set lo up
"""


@pytest.fixture
def hosts():
    """The names of two network namespaces that reach each other at 10.77.0.1 and 10.77.0.2."""
    names = [f"cf{os.getpid()}{end}" for end in "ab"]
    done = subprocess.run(
        ["sh", "-ec", CABLE.format(a=names[0], b=names[1])], check=False, capture_output=True, text=True
    )
    try:
        if done.returncode:
            pytest.skip(f"network namespaces cannot be made here: {done.stderr.strip()[:100]}")
        yield names
    finally:
        for name in names:
            subprocess.run(["sh", "-c", f"ip netns del {name}"], check=False, capture_output=True)


def test_two_hosts_train_as_one(hosts, contracts, data, torchrun, environment, tmp_path, curve):
    def arguments(out):
        given = {"--contract": contracts / "ternary.toml", "--data": data, "--out": out, "--steps": 10}
        settings = {"--batch": 8, "--sequence": 32, "--dtype": "bf16", "--save-every": 5, "--eval-every": 5}
        return ["train", *(str(part) for pair in (given | settings).items() for part in pair)]

    one = subprocess.run(
        torchrun(2, *arguments(tmp_path / "one")), check=False, capture_output=True, timeout=200, env=environment
    )
    assert one.returncode == 0, one.stderr
    agents = [
        subprocess.Popen(
            _on(name, first=number == 0, address=f"10.77.0.{number + 1}", arguments=arguments(tmp_path / "two")),
            stderr=subprocess.PIPE,
            text=True,
            env={**environment, "GLOO_SOCKET_IFNAME": name},
        )
        for number, name in enumerate(hosts)
    ]
    for agent in agents:
        _, errors = agent.communicate(timeout=200)
        assert agent.returncode == 0, errors[-2000:]
    assert curve(tmp_path / "two") == curve(tmp_path / "one")


def _on(name, *, first, address, arguments):
    agent = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d"]
    meeting = [
        "--rdzv-endpoint=10.77.0.1:29477",
        f"--rdzv-conf=is_host={str(first).lower()}",
        f"--local-addr={address}",
    ]
    return ["ip", "netns", "exec", name, *agent, *meeting, "-m", "conform.core.cli", *arguments]
