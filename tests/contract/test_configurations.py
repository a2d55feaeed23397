"""Configurations of strangers, as data: what each describes, or the sentence that refuses it. The path is the id."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from conform.contract.errors import ContractError
from conform.contract.infer import Inference, infer_contract
from conform.contract.mapping import from_mapping, to_mapping
from conform.contract.toml import read_toml

CASES = Path(__file__).parent / "cases"
PATHS = sorted((CASES / "configs").rglob("*.toml"))


@dataclass(frozen=True)
class Case:
    """`base` with `drop` left out and `change`, JSON, laid over; then a part of the refusal or of the inference."""

    why: str
    base: str
    drop: tuple[str, ...] = ()
    change: str = "{}"
    refused: str = ""
    stored: str = ""
    ignored: tuple[str, ...] | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)

    def config(self) -> dict[str, Any]:
        base = json.loads((CASES / "bases" / f"{self.base}.json").read_text())
        return {key: value for key, value in base.items() if key not in self.drop} | json.loads(self.change)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(CASES / "configs").with_suffix("")))
def test_a_configuration_is_read_as_it_is_meant_or_refused_by_name(path):
    case = from_mapping(Case, read_toml(path, "a case"), str(path))
    if case.refused:
        with pytest.raises(ContractError) as refusal:
            infer_contract(case.config(), "case")
        assert case.refused in str(refusal.value)
    else:
        expect(case, infer_contract(case.config(), "case"))


def expect(case: Case, inferred: Inference) -> None:
    assert case.model or case.stored
    model = to_mapping(inferred.contract.model)
    assert {key: model.get(key) for key in case.model} == case.model
    assert ("rope_scaling" in model) == ("rope_scaling" in case.model)
    assert case.stored in ("", inferred.stored.weights)
    assert case.ignored is None or case.ignored == tuple(sorted(ignored.key for ignored in inferred.ignored))
    origins = {origin.field: origin.source for origin in inferred.origins}
    assert {key: origins[key] for key in case.origins} == case.origins


def test_there_are_at_least_forty_cases_and_both_kinds():
    cases = [from_mapping(Case, read_toml(path, "a case"), str(path)) for path in PATHS]
    assert len(cases) >= 40
    assert min(sum(bool(case.refused) for case in cases), sum(not case.refused for case in cases)) >= 20
