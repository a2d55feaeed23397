"""`conform train --judge`: when a run is judged, and that a resumed run knows what was found before."""

import json
import shutil
import sys

import pytest

from conform.core.cli.main import main

SETTINGS = {"steps": 12, "batch": 8, "sequence": 32, "lr": 3e-3, "dtype": "f32", "save-every": 4, "eval-every": 6}


def command(*arguments):
    """`conform train …` in this process; its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["conform", "train", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
    return end.value.code


@pytest.fixture(scope="module")
def begin(contracts, data):
    """The arguments that begin a run, judged every two steps unless it says otherwise."""

    def line(out, contract="wide", **changed):
        given = SETTINGS | {"judge": "q8_0,i2_s", "judge-every": 2} | changed
        paths = ["--contract", contracts / f"{contract}.toml", "--data", data, "--out", out]
        return [*paths, *(part for name, value in given.items() for part in (f"--{name}", value))]

    return line


@pytest.fixture(scope="module")
def judged(begin, tmp_path_factory):
    """A run of twelve steps."""
    out = tmp_path_factory.mktemp("judged") / "run"
    assert command(*begin(out)) == 0
    return out


@pytest.fixture
def interrupted(judged, tmp_path):
    """The run as a kill after step 12 would have left it, with step 8 as its newest checkpoint."""
    run = shutil.copytree(judged, tmp_path / "run")
    (run / "complete.json").unlink()
    shutil.rmtree(run / "checkpoints/step-00000012")
    return run


def judgements(records):
    return [record for record in records if record["kind"] == "judge"]


def test_every_quantisation_is_judged_every_so_many_steps(judged, curve):
    found = judgements(curve(judged))
    expected = [(step, name) for step in range(2, 13, 2) for name in ("q8_0", "i2_s")]
    assert [(record["step"], record["quantizer"]) for record in found] == expected
    for eight_bits, ternary in zip(found[::2], found[1::2], strict=True):
        assert ternary["kl"] > 10 * eight_bits["kl"] > 0
        assert ternary["kl_p99"] >= ternary["kl"]


def test_judging_changes_nothing_that_the_run_computes(judged, begin, curve, tmp_path):
    assert command(*begin(tmp_path / "run", judge="")) == 0
    assert curve(tmp_path / "run") == [record for record in curve(judged) if record["kind"] != "judge"]


def test_without_judge_every_it_is_judged_with_every_evaluation(begin, curve, tmp_path):
    assert command(*begin(tmp_path / "run", **{"judge-every": 0})) == 0
    assert [record["step"] for record in judgements(curve(tmp_path / "run"))] == [6, 6, 12, 12]


def test_what_cannot_be_quantised_is_an_alarm_and_no_end(begin, curve, tmp_path, capfd):
    assert command(*begin(tmp_path / "run", contract="dense", judge="i2_s", **{"judge-every": 12})) == 0
    assert "ALARM: step 12: i2_s is impossible: " in capfd.readouterr().err
    (record,) = judgements(curve(tmp_path / "run"))
    assert record["kl"] is None


def test_a_quantizer_that_would_end_the_process_is_an_alarm_and_the_run_goes_on(
    begin, curve, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr("conform.plugins.quantizers.q8_0.Q8_0.quantize", lambda *_: sys.exit(0))
    assert command(*begin(tmp_path / "run", judge="q8_0")) == 0
    assert (tmp_path / "run/complete.json").exists()
    records = curve(tmp_path / "run")
    assert [record["kl"] for record in judgements(records)] == [None] * 6
    assert "quantizer q8_0" in capfd.readouterr().err
    assert max(record["step"] for record in records) == 12


def test_a_resumed_run_is_judged_as_if_nothing_had_happened(interrupted, judged, curve):
    assert command("--resume", interrupted) == 0
    assert curve(interrupted) == curve(judged)


def test_a_resumed_run_reads_its_trend_back(interrupted, curve, capfd):
    records = [json.loads(line) for line in (interrupted / "metrics.jsonl").read_text().splitlines()]
    for record in judgements(records):
        record["kl"] *= 1e-6
    (interrupted / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert command("--resume", interrupted) == 0
    alarms = [record for record in judgements(curve(interrupted)) if record["alarm"]]
    assert [(record["step"], record["quantizer"]) for record in alarms] == [(10, "i2_s")]
    assert "ALARM: i2_s: KL " in capfd.readouterr().err
