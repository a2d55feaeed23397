import json

import pytest

from conform.contract.load import load_contract
from conform.trainer.config import TrainConfig
from conform.trainer.data.manifest import manifest_digest
from conform.trainer.errors import TrainError
from conform.trainer.run.folder import RunFolder, RunRecord
from conform.trainer.run.report import curves, run_report

STEPS = [
    {"kind": "step", "step": n, "loss": 5 / n, "lr": 1e-3, "grad_norm": 1.0, "tokens_per_second": 9.0}
    for n in (1, 2, 3)
]
HELD_OUT = [{"kind": "held_out", "step": 3, "loss": 2.0, "bits_per_byte": 1.5}]
JUDGED = [
    {"kind": "judge", "step": 3, "quantizer": "i2_s", "kl": 0.1, "delta_nll": 0.05},
    {"kind": "judge", "step": 3, "quantizer": "q8_0", "kl": None, "delta_nll": None},
]


def named(title, records):
    return next(curve for curve in curves(records) if curve.title.startswith(title))


def test_losses_of_training_and_evaluation_share_a_figure():
    assert named("loss", STEPS + HELD_OUT).series == {
        "train": [(1, 5.0), (2, 2.5), (3, 5 / 3)],
        "held out": [(3, 2.0)],
    }


def test_each_quantisation_has_its_curve_and_what_is_impossible_has_no_point():
    assert named("cost of quantisation: KL", JUDGED).series == {"i2_s": [(3, 0.1)], "q8_0": []}


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(TrainError, match="holds no run"):
        run_report(tmp_path)


@pytest.fixture
def run(tmp_path, built_data):
    tokenizer = (built_data / "tokenizer.model").read_bytes()
    record = RunRecord(load_contract("nano"), TrainConfig(steps=3), built_data, tokenizer, manifest_digest(built_data))
    folder = RunFolder(tmp_path / "run")
    folder.create(record)
    folder.unlock()
    return folder.path


def write_metrics(run, records):
    (run / "metrics.jsonl").write_text("".join(json.dumps({"tokens": 9, **record}) + "\n" for record in records))


def test_a_run_that_has_not_begun_has_no_report(run):
    with pytest.raises(TrainError, match="no step was recorded yet"):
        run_report(run)


def test_an_unfinished_run_has_a_report(run):
    write_metrics(run, STEPS)
    assert "run" in run_report(run)


@pytest.mark.parametrize(
    "record",
    [
        {"kind": "step", "step": 4},
        {"kind": "step", "step": 4, "loss": "much"},
        {"kind": "step", "step": 4, "loss": [1]},
        {"kind": "held_out", "step": 4, "loss": 1.0},
        {"kind": "held_out", "step": 4, "loss": 1.0, "unigram_perplexity": 1, "perplexity": 0, "bits_per_byte": 1},
        {"kind": "judge", "step": 4},
        {"kind": "judge", "step": 4, "quantizer": [], "kl": 1, "kl_p99": 1, "delta_nll": 1, "alarm": ""},
    ],
)
def test_a_record_that_conform_did_not_write_is_one_sentence(run, record):
    write_metrics(run, [*STEPS, record])
    with pytest.raises(TrainError, match=r"metrics\.jsonl: a record is not as conform writes it"):
        run_report(run)
