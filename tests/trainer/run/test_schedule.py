import pytest

from conform.trainer.config import TrainConfig
from conform.trainer.run.schedule import learning_rate, weight_decay

CONFIG = TrainConfig(steps=1000, lr=2e-3, min_lr=0.1, warmup=0.02, weight_decay=0.1, decay_until=0.5)


def test_warm_up_is_linear_to_the_peak():
    assert learning_rate(0, CONFIG) == pytest.approx(1e-4)
    assert learning_rate(9, CONFIG) == pytest.approx(1e-3)
    assert learning_rate(19, CONFIG) == pytest.approx(2e-3)


def test_the_cosine_ends_at_the_floor():
    assert learning_rate(20, CONFIG) == pytest.approx(2e-3)
    assert learning_rate(999, CONFIG) == pytest.approx(2e-4)


def test_the_rate_never_rises_after_warm_up():
    rates = [learning_rate(step, CONFIG) for step in range(20, 1000)]
    assert rates == sorted(rates, reverse=True)


def test_a_run_of_one_step_has_a_rate():
    assert learning_rate(0, TrainConfig(steps=1, lr=1.0)) == 1.0


def test_decay_ends_where_the_config_says():
    assert weight_decay(499, CONFIG) == 0.1
    assert weight_decay(500, CONFIG) == 0.0
