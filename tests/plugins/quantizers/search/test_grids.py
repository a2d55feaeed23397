"""Grids: the tables of the gguf package, and the neighbours of every code."""

import gguf.quants
import numpy as np
import pytest

from conform.plugins.quantizers.search.grids import GRIDS, grid, neighbours


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_is_the_table_of_the_gguf_package(name):
    table = getattr(gguf.quants, GRIDS[name].table)
    table.init_grid()
    np.testing.assert_array_equal(grid(name), table.grid.reshape(GRIDS[name].points, GRIDS[name].dim))


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_is_of_its_levels_and_has_no_point_twice(name):
    assert np.isin(grid(name), GRIDS[name].levels).all()
    assert len(np.unique(grid(name), axis=0)) == GRIDS[name].points


def test_a_grid_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        grid("iq2_s")[0, 0] = 1


@pytest.mark.parametrize("name", ["iq2_xxs", "iq2_s", "iq3_xxs", "iq3_s"])
def test_the_neighbours_of_a_code_are_its_nearest_points_in_order(name):
    shape, near = GRIDS[name], neighbours(name, 16)
    points = grid(name).astype(int)
    for code in np.random.default_rng(0).integers(0, len(near.index), 50):
        digits = [code // len(shape.levels) ** j % len(shape.levels) for j in range(shape.dim)]
        distance = ((points - np.array(shape.levels)[digits]) ** 2).sum(1)
        np.testing.assert_array_equal(near.index[code], np.argsort(distance, kind="stable")[:16])
        np.testing.assert_array_equal(near.values[code, 0].T, points[near.index[code]])


def test_more_neighbours_begin_with_the_same_ones():
    few, many = neighbours("iq3_s", 16), neighbours("iq3_s", 48)
    np.testing.assert_array_equal(many.index[:, :16], few.index)
    np.testing.assert_array_equal(many.values[:, :1], few.values)


def test_a_point_of_the_grid_is_its_own_nearest_neighbour():
    shape, near = GRIDS["iq2_xs"], neighbours("iq2_xs", 16)
    levels = np.searchsorted(shape.levels, grid("iq2_xs"))
    codes = (levels * 3 ** np.arange(8)).sum(1)
    np.testing.assert_array_equal(near.index[codes, 0], np.arange(shape.points))
