"""`conform train` as its users start it: in its own processes, with signals, full disks and wrong folders."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from conform.core.cli.main import main
from conform.trainer.run.metrics import read_metrics

pytestmark = pytest.mark.slow

LIMITED = ["bash", "-c", 'ulimit -f 200 && exec "$0" "$@"']
"""Every file of more than 200 kB fails, as on a full disk: the weights do, the metrics do not."""

SETTINGS = {"batch": 8, "sequence": 32, "lr": 3e-3, "dtype": "f32", "save-every": 10, "eval-every": 30, "keep-last": 0}


@pytest.fixture(scope="module")
def begin(contracts, data):
    """The arguments that begin a run."""

    def line(out, *, steps=60, contract="dense"):
        given = {"--contract": contracts / f"{contract}.toml", "--data": data, "--out": out, "--steps": steps}
        given |= {f"--{name}": value for name, value in SETTINGS.items()}
        return ["train", *(str(part) for pair in given.items() for part in pair)]

    return line


@pytest.fixture(scope="module")
def whole(tmp_path_factory, conform, begin):
    """A run that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    status, _, errors = conform(*begin(out))
    assert status == 0, errors
    return out


def started(arguments, run, step, environment):
    """The process, once the run has recorded that step."""
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    deadline = time.monotonic() + 120
    while not any(record["step"] >= step for record in read_metrics(run)):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_run_goes_on_bit_for_bit(number, whole, begin, conform, curve, tmp_path, environment):
    run = tmp_path / "run"
    process = started([sys.executable, "-m", "conform.core.cli", *begin(run)], run, 13, environment)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"go on with: conform train --resume {run}" in errors
    reached = max(record["step"] for record in read_metrics(run))
    assert reached < 60, "it was to be interrupted"
    assert (run / f"checkpoints/step-{reached:08d}/conform.json").is_file()
    status, _, errors = conform("train", "--resume", run)
    assert status == 0, errors
    assert curve(run) == curve(whole)


@pytest.fixture(scope="module")
def on_two(begin):
    """The arguments that begin a run of two processes, judged as it goes."""

    def line(out):
        return [*begin(out, contract="wide", steps=45), "--judge", "q8_0,i2_s", "--judge-every", "15"]

    return line


@pytest.fixture(scope="module")
def whole_on_two(tmp_path_factory, torchrun, on_two, environment):
    """A run of two processes that nobody disturbed."""
    out = tmp_path_factory.mktemp("two") / "run"
    assert ended(torchrun(2, *on_two(out)), environment)[0] == 0
    return out


def ended(arguments, environment):
    """Exit status and stderr of a process that runs to its end."""
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=200, env=environment)
    return done.returncode, done.stderr


def test_killing_every_process_at_once_loses_nothing(whole_on_two, on_two, torchrun, curve, tmp_path, environment):
    run = tmp_path / "run"
    process = started(torchrun(2, *on_two(run), "--async-save"), run, 23, environment)
    workers = _workers(run)
    os.killpg(process.pid, signal.SIGKILL)
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    status, errors = ended(torchrun(2, "train", "--resume", run), environment)
    assert status == 0, errors
    assert curve(run) == curve(whole_on_two)


def test_torchrun_starts_a_killed_process_again_and_nothing_is_lost(
    whole_on_two, on_two, torchrun, curve, tmp_path, environment
):
    """With the arguments of the first start, which say nothing of resuming."""
    run = tmp_path / "run"
    process = started(torchrun(2, *on_two(run), restarts=1), run, 23, environment)
    os.kill(_workers(run)[1], signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert f"resumed from {run}/checkpoints/step-00000020" in errors
    assert curve(run) == curve(whole_on_two)


def test_signals_under_torchrun_save_and_the_run_goes_on_bit_for_bit(
    whole_on_two, on_two, torchrun, curve, tmp_path, environment
):
    """Sent to torchrun alone, to one of its processes alone, and, as some schedulers do, to all of them at once."""
    run = tmp_path / "run"
    arguments, reached = on_two(run), 0
    for number, whom in ((signal.SIGTERM, "torchrun"), (signal.SIGINT, "one process"), (signal.SIGTERM, "everyone")):
        process = started(torchrun(2, *arguments), run, reached + 8, environment)
        workers = _workers(run)
        assert len(workers) == 2
        addressed = {"torchrun": [process.pid], "one process": workers[1:], "everyone": [*workers, process.pid]}[whom]
        for pid in addressed:
            os.kill(pid, number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1, "what torchrun makes of 130 and 143"
        assert errors.count(f"go on with: conform train --resume {run}") == 1, f"{number!r} to {whom}: {errors}"
        assert "[rank" not in errors, f"a process ended with a traceback: {errors}"
        assert whom != "one process" or errors.count("exitcode  : 130") == 2
        assert _workers(run) == []
        reached = max(record["step"] for record in read_metrics(run))
        assert f"stopped at step {reached};" in errors
        assert reached < 45, "it was to be interrupted"
        assert (run / f"checkpoints/step-{reached:08d}/conform.json").is_file()
        arguments = ["train", "--resume", run]
    status, errors = ended(torchrun(2, *arguments), environment)
    assert status == 0, errors
    assert curve(run) == curve(whole_on_two)


def test_two_processes_judge_as_one(whole_on_two, curve):
    judged = [record for record in curve(whole_on_two) if record["kind"] == "judge"]
    assert [(record["step"], record["quantizer"]) for record in judged] == [
        (step, name) for step in (15, 30, 45) for name in ("q8_0", "i2_s")
    ]
    for eight_bits, ternary in zip(judged[::2], judged[1::2], strict=True):
        assert ternary["kl"] > 10 * eight_bits["kl"] > 0


def _workers(run):
    """The processes of that run, without torchrun, which puts them into sessions of their own."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and int(entry) != os.getpid():
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
                    if os.fsencode(run) in words and b"torch.distributed.run" not in words:
                        found.append(int(entry))
            except OSError:
                pass  # it is gone already
    return sorted(found)


def test_a_full_disk_is_one_sentence_and_loses_nothing(begin, conform, tmp_path, whole, curve):
    run = tmp_path / "run"
    status, _, errors = conform(*begin(run), launcher=[*LIMITED, sys.executable, "-m", "conform.core.cli"])
    assert status == 2
    assert "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("conform: ")
    assert "cannot be written" in errors
    assert "there is no checkpoint yet" in errors
    assert os.listdir(run / "checkpoints") == []
    assert conform("train", "--resume", run)[0] == 0
    assert curve(run) == curve(whole)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_disk_that_fills_later_leaves_the_last_checkpoint(
    processes, whole, whole_on_two, torchrun, environment, tmp_path
):
    run = shutil.copytree(whole if processes == 1 else whole_on_two, tmp_path / "run")
    last = max(record["step"] for record in read_metrics(run))
    arguments = ["train", "--resume", run, "--steps", str(last + 5)]
    alone = [sys.executable, "-m", "conform.core.cli", *arguments]
    status, errors = ended([*LIMITED, *(alone if processes == 1 else torchrun(2, *arguments))], environment)
    assert status == (2 if processes == 1 else 1)
    assert [line for line in errors.splitlines() if line.startswith("conform: ")] != []
    assert errors.count(f"the last good checkpoint is {run}/checkpoints/step-{last:08d}") == 1
    assert "[rank" not in errors
    assert not any(f"{last + 5:08d}" in name for name in os.listdir(run / "checkpoints"))


def test_a_folder_that_cannot_be_written_is_one_sentence(begin, conform, tmp_path):
    (tmp_path / "file").write_text("")
    for place in ("/proc/no-folder-can-be-made-here/run", tmp_path / "file/run"):
        status, _, errors = conform(*begin(place))
        assert status == 2
        assert errors.count("\n") == 1
        assert "cannot be written" in errors


@pytest.fixture
def unprivileged():
    """What a command line begins with so that file permissions bind it, also where the tests run as root."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root may write into a read-only folder, and setpriv is not here to take that right away")
    return ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]


def test_a_read_only_folder_is_one_sentence_and_loses_nothing(
    unprivileged, whole, begin, conform, tmp_path, environment
):
    run = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(run / "checkpoints/step-00000060")
    (run / "complete.json").unlink()
    kept = os.listdir(run / "checkpoints")
    alone = [*unprivileged, sys.executable, "-m", "conform.core.cli"]
    (tmp_path / "empty").mkdir()
    for folder, arguments in (
        ("empty", begin(tmp_path / "empty/run")),
        ("run/checkpoints", ["train", "--resume", run]),
    ):
        (tmp_path / folder).chmod(0o500)
        status, errors = ended([*alone, *map(str, arguments)], environment)
        (tmp_path / folder).chmod(0o700)
        said = [line for line in errors.splitlines() if line.startswith("conform: ")]
        assert (status, len(said)) == (2, 1), errors
        assert "cannot be written: Permission denied" in said[0]
        assert "Traceback" not in errors
    assert os.listdir(tmp_path / "empty") == []
    assert sorted(os.listdir(run / "checkpoints")) == sorted(kept)


def test_an_error_of_several_processes_is_said_once(begin, torchrun, tmp_path, environment, data):
    arguments = [part if part != str(data) else str(tmp_path) for part in begin(tmp_path / "run")]
    done = subprocess.run(
        torchrun(2, *arguments), check=False, capture_output=True, text=True, timeout=120, env=environment
    )
    said = [line for line in done.stderr.splitlines() if line.startswith("conform: ")]
    assert len(said) == 1
    assert "manifest.json" in said[0]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train"], "give --out for a new run, or --resume"),
        (["train", "--out", "a", "--resume", "b"], "give --out for a new run, or --resume"),
        (["train", "--out", "a"], "--contract and --data are needed"),
        (["train", "--out", "a", "--config", "no-such"], "no such config file"),
        (["train", "--out", "a", "--contract", "no-such", "--data", "."], "no such contract"),
        (["train", "--resume", "no-such"], "holds no run"),
        (["train", "--out", "a", "--lr", "-1"], "lr = -1.0: expected more than 0"),
        (["train", "report", "no-such"], "holds no run"),
        (["train", "plan", "--contract", "no-such"], "no such contract"),
    ],
)
def test_wrong_use_is_one_sentence_and_status_2(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["conform", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr()
    assert (end.value.code, said.out) == (2, "")
    assert sentence in said.err
    assert os.listdir(tmp_path) == []


def test_a_wrong_contract_is_refused_before_torch_is_imported(environment, tmp_path):
    imports = "import sys; from conform.core.cli.main import main; "
    call = imports + "sys.argv[1:] = 'train --out a --contract x --data .'.split()"
    check = f"{call}\ntry: main()\nexcept SystemExit as end: print(end.code, 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", check], check=True, capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.stdout.split() == ["2", "False"]


def test_a_report_is_one_page_that_needs_nothing_else(whole, conform, tmp_path):
    page = tmp_path / "page.html"
    assert conform("train", "report", whole, "-o", page)[0] == 0
    text = page.read_text()
    assert text.count("<svg") >= 4
    assert "times better than token frequencies" in text
    assert not any(mark in text for mark in ("http-equiv", "<script", "<link", 'src="'))


def test_a_plan_says_what_fits(conform):
    status, out, _ = conform("train", "plan", "--contract", "base-1.5b", "--gpus", "8", "--memory", "80", "--json")
    row = json.loads(out)[0]
    assert status == 0
    assert row["devices"] == 8
    assert 10 < row["gib"] <= 80
    assert conform("train", "plan", "--contract", "base-1.5b", "--gpus", "1", "--memory", "12")[0] == 1
