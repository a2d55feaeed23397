import pytest

from conform.trainer.distributed import torchrun

VARIABLES = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "WORLD_SIZE", "LOCAL_RANK")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_a_process_of_its_own_is_no_worker_and_the_first_of_its_host():
    assert not torchrun.is_worker()
    assert torchrun.is_first_of_host()
    assert torchrun.restarts() == 0


@pytest.mark.parametrize(("name", "value"), [("TORCHELASTIC_RUN_ID", "none"), ("WORLD_SIZE", "2")])
def test_a_process_of_torchrun_is_a_worker(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert torchrun.is_worker()


def test_a_restarted_second_process_of_a_host(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "3")
    assert not torchrun.is_first_of_host()
    assert torchrun.restarts() == 3
