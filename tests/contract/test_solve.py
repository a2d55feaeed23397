from fractions import Fraction

import pytest

from conform.contract.errors import ContractError
from conform.contract.load import load_contract
from conform.contract.solve import SearchSpace, solve

BOX = {
    "layers": range(24, 29),
    "hidden": range(2048, 2561),
    "heads": range(16, 21),
    "kv_heads": range(4, 9),
    "head_dim": 128,
    "vocab": 32000,
}
FOUR_TIMES = SearchSpace(**BOX, ffn_mult=Fraction(4))


def dimensions(candidate):
    return candidate.layers, candidate.hidden, candidate.heads, candidate.kv_heads, candidate.ffn, candidate.tied


def test_the_nearest_four_times_configuration_is_base():
    (nearest,) = solve(FOUR_TIMES, 1_500_000_000, limit=1)
    assert dimensions(nearest) == (24, 2048, 16, 4, 8192, True)
    assert nearest.parameters == load_contract("base-1.5b").model.parameters


def test_with_a_free_ffn_the_nearest_is_exact():
    (nearest,) = solve(SearchSpace(**BOX, ffn_multiple_of=256), 1_500_000_000, limit=1)
    assert dimensions(nearest) == (24, 2048, 16, 8, 7680, True)
    assert nearest.parameters == load_contract("exact-1.5b").model.parameters


def test_the_box_holds_fifty_admissible_configurations():
    candidates = solve(FOUR_TIMES, 1_500_000_000, limit=10_000)
    assert sum(not any(o.blocking for o in c.obstacles()) for c in candidates) == 50


def test_candidates_come_by_distance():
    distances = [abs(c.parameters - 1_500_000_000) for c in solve(FOUR_TIMES, 1_500_000_000, limit=30)]
    assert distances == sorted(distances)


def test_kv_heads_that_do_not_divide_are_listed_last_with_their_obstacle():
    last = solve(FOUR_TIMES, 1_500_000_000, limit=10_000)[-1]
    assert any("do not divide" in obstacle.text for obstacle in last.obstacles())


def test_equal_head_ratio_is_a_caution():
    (nearest,) = solve(FOUR_TIMES, 1_500_000_000, limit=1)
    assert [obstacle.blocking for obstacle in nearest.obstacles()] == [False]


def test_widths_that_do_not_divide_are_obstacles():
    space = SearchSpace(range(1, 2), range(320, 321), range(5, 6), range(1, 2), 64, 1000, ffn_mult=Fraction(2))
    texts = [obstacle.text for obstacle in solve(space, 10**6, limit=1)[0].obstacles()]
    assert texts[0] == "hidden 320 is not a multiple of 128 (i2_s)"
    assert "ffn 640 is not a multiple of 256 (K and IQ types)" in texts


@pytest.mark.parametrize("ffn", [{}, {"ffn_mult": Fraction(4), "ffn_multiple_of": 256}])
def test_the_ffn_rule_is_given_exactly_once(ffn):
    with pytest.raises(ContractError, match="either --ffn-mult or"):
        SearchSpace(**BOX, **ffn)


def test_an_empty_range_is_refused():
    with pytest.raises(ContractError, match="--layers"):
        SearchSpace(**BOX | {"layers": range(5, 3)}, ffn_mult=Fraction(4))


def test_ranges_without_a_candidate_say_so():
    with pytest.raises(ContractError, match="no configuration"):
        solve(SearchSpace(**BOX | {"hidden": range(100, 101)}, ffn_mult=Fraction(4)), 10**9, limit=1)


def test_endless_ranges_are_refused_before_they_are_counted():
    endless = BOX | {"layers": range(1, 100_000), "kv_heads": range(1, 100_000)}
    with pytest.raises(ContractError, match="narrow"):
        solve(SearchSpace(**endless, ffn_mult=Fraction(4)), 10**9, limit=1)
