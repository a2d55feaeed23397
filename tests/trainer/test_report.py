import pytest

from conform.trainer.errors import TrainError
from conform.trainer.report import curves, run_report

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
