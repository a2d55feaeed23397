import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conform.core.errors import PlanError
from conform.core.export.mix import Option, choose_mix

OPTIONS = st.lists(
    st.builds(Option, st.sampled_from("abcd"), st.integers(1, 40).map(lambda n: 32 * n), st.floats(0, 1e3)),
    min_size=1,
    max_size=4,
)
TENSORS = st.lists(OPTIONS, min_size=1, max_size=5).map(lambda each: {f"t{n}": o for n, o in enumerate(each)})


def total(mix):
    return sum(option.nbytes for option in mix), sum(option.error for option in mix)


@given(TENSORS, st.integers(0, 6000))
def test_no_other_mix_of_that_size_has_less_error(options, room):
    fitting = [mix for mix in itertools.product(*options.values()) if total(mix)[0] <= room]
    if not fitting:
        with pytest.raises(PlanError, match="smallest choice takes"):
            choose_mix(options, room)
        return
    nbytes, error = total(choose_mix(options, room).values())
    assert nbytes <= room
    assert error == pytest.approx(min(total(mix)[1] for mix in fitting))


@given(TENSORS, st.integers(4000, 6000))
def test_the_same_input_gives_the_same_mix(options, room):
    if sum(min(option.nbytes for option in offered) for offered in options.values()) <= room:
        assert choose_mix(options, room) == choose_mix(dict(options), room)


def test_room_that_units_do_not_resolve_is_filled():
    options = {
        f"t{n}": [Option("small", 100_003 * (n + 1), 10.0 + n), Option("large", 900_001 * (n + 1), 1.0)]
        for n in range(20)
    }
    room = sum(option[1].nbytes for option in options.values()) - 1
    chosen = choose_mix(options, room)
    assert [name for name, option in chosen.items() if option.quantizer == "small"] == ["t0"]
