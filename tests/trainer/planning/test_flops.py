import pytest
import torch

from conform.contract.load import load_contract
from conform.trainer.planning.flops import flops_per_token, peak_flops


def test_six_operations_for_each_weight_that_is_multiplied_by():
    nano = load_contract("nano").model
    linears = 2 * (2 * 512 * 256 + 2 * 512 * 64 + 3 * 512 * 2048)
    attention = 6 * 2 * 256 * 128
    assert flops_per_token(nano, 128) == 6 * (linears + 2048 * 512) + attention


def test_a_peak_is_more_than_nothing():
    assert peak_flops(torch.device("cpu"), torch.float32) > 1e6


@pytest.mark.parametrize("sequence", [1, 4096])
def test_attention_grows_with_the_sequence(sequence):
    base = load_contract("base-1.5b").model
    assert flops_per_token(base, sequence) < flops_per_token(base, 2 * sequence)
