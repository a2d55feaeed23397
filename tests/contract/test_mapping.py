from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from conform.contract.errors import ContractError, InputError
from conform.contract.mapping import Rule, from_mapping


@dataclass(frozen=True, slots=True)
class Leaf:
    size: Annotated[int, Rule("a positive number", lambda size: size > 0)]


@dataclass(frozen=True, slots=True)
class Tree:
    name: str
    height: float
    kind: Literal["oak", "elm", 3]
    evergreen: bool
    leaves: tuple[Leaf, ...] = ()
    nests: Mapping[Literal["left", "right"], int] = field(default_factory=dict)
    planted: int | None = None
    notes: Any = None


LEAST = {"name": "a", "height": 1.5, "kind": "oak", "evergreen": False}


def test_everything_that_is_declared_is_read():
    data = LEAST | {"leaves": [{"size": 2}], "nests": {"left": 1}, "planted": 7, "notes": [None]}
    assert from_mapping(Tree, data, "f") == Tree("a", 1.5, "oak", False, (Leaf(2),), {"left": 1}, 7, [None])


def test_defaults_stand_for_what_is_missing():
    assert from_mapping(Tree, LEAST, "f") == Tree("a", 1.5, "oak", False)


def test_a_whole_number_is_a_float_where_one_is_declared():
    height = from_mapping(Tree, LEAST | {"height": 2}, "f").height
    assert (height, type(height)) == (2.0, float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "\udcff"}, r"name = '\\udcff': expected text that UTF-8 can hold"),
        ({"name": 5}, "name = 5: expected a value of type str, found int"),
        ({"height": "2"}, "height = '2': expected a value of type float"),
        ({"height": True}, "height = True: expected a value of type float"),
        ({"height": 10**400}, "height = 1000.*: expected a number that fits into a float"),
        ({"height": 1 << 100_000}, r"height = \(int too large to print\): expected"),
        ({"kind": "ash"}, "kind = 'ash': expected one of oak, elm, 3"),
        ({"kind": ["oak"]}, r"kind = \['oak'\]: expected one of"),
        ({"kind": 3.0}, "kind = 3.0: expected one of"),
        ({"evergreen": 1}, "evergreen = 1: expected a value of type bool"),
        ({"leaves": {}}, r"leaves = \{\}: expected a value of type list"),
        ({"leaves": [{"size": 1}, 5]}, r"leaves\[1\]: expected a table, found int"),
        ({"leaves": [{"size": 0}]}, r"leaves\[0\].size = 0: expected a positive number"),
        ({"leaves": [{"size": True}]}, r"leaves\[0\].size = True: expected a value of type int"),
        ({"leaves": [{}]}, r"missing leaves\[0\].size"),
        ({"nests": {"middle": 1}}, "nests = 'middle': expected one of left, right"),
        ({"nests": {"left": None}}, "nests.left = None: expected a value of type int"),
        ({"planted": 1 << 63}, "planted = 9223372036854775808: expected a whole number of at most 64 bits"),
        ({"colour": 1}, "unknown key colour; known are name, height, .*"),
    ],
)
def test_an_error_names_place_value_and_expectation(change, message):
    with pytest.raises(InputError, match=f"^tree.json: {message}"):
        from_mapping(Tree, LEAST | change, "tree.json")


def test_what_is_missing_is_named_with_its_place():
    with pytest.raises(InputError, match=r"^f: missing trees.oak.kind, trees.oak.evergreen$"):
        from_mapping(Tree, {"name": "a", "height": 1}, "f", "trees.oak")


@pytest.mark.parametrize("data", [None, [], "x", 5])
def test_what_is_not_a_table_is_refused(data):
    with pytest.raises(InputError, match=f"^f: expected a table, found {type(data).__name__}$"):
        from_mapping(Tree, data, "f")


def test_unknown_keys_are_ignored_when_asked():
    assert from_mapping(Tree, LEAST | {"colour": 1}, "f", ignore_unknown=True) == Tree("a", 1.5, "oak", False)


def test_an_error_of_the_dataclass_keeps_its_kind_and_gets_the_place():
    @dataclass(frozen=True, slots=True)
    class Picky:
        size: int

        def __post_init__(self) -> None:
            raise ContractError("size: never right")

    with pytest.raises(ContractError, match=r"^f: size: never right$"):
        from_mapping(Picky, {"size": 1}, "f")
