"""The self-test plants what applies to the file, and counts a fault as caught only when its own rung failed."""

import dataclasses
from types import SimpleNamespace

import pytest

from conform.core.verify.verify import open_gguf
from conform.parity.candidate import Candidate
from conform.parity.selftest import selftest
from conform.parity.selftest.faulty_runtimes import faulty_runtimes
from conform.parity.selftest.mutants import FILE_MUTANTS
from conform.parity.selftest.selftest import plant_faults
from conform.parity.verdict import RUNGS, Measurement, Verdict, judged, not_run


@pytest.fixture
def plant(make_gguf, registry, monkeypatch):
    """plant(contract, quant, rung result of a name) plants every fault, each judged to give these results."""

    def run(contract, quant, result, runtimes=True):
        verdict = Verdict("", tuple(result(rung) for rung in RUNGS))
        monkeypatch.setattr(selftest, "judge", lambda *_arguments, **_options: verdict)
        monkeypatch.setattr(selftest, "build_faulty", lambda fault: fault.name)
        candidate = Candidate(open_gguf(make_gguf(contract, quant), registry), SimpleNamespace(), registry)

        def open_runtime(_binary, file):
            return dataclasses.replace(candidate, file=file)

        return list(plant_faults(candidate, open_runtime, runtimes=runtimes))

    return run


def passing(rung):
    return judged(rung, 1, "things")


def out_of_tolerance(rung):
    return judged(rung, 1, "things", [Measurement("a", 6.0, 2.0), Measurement("b", 3.0, 2.0), Measurement("c", 9.0)])


def test_an_i2_s_file_gets_every_fault(plant, micro_ternary):
    found = [(fault.place, fault.name, fault.what, fault.rung) for fault in plant(micro_ternary, "i2_s", passing)]
    assert found == [
        *(("file", fault.name, fault.what, fault.breaks) for fault in FILE_MUTANTS),
        *(("runtime", fault.name, fault.what, fault.breaks) for fault in faulty_runtimes()),
    ]


def test_a_file_of_another_type_gets_no_fault_that_would_show_in_i2_s_only(plant, micro):
    every = {("file", fault.name) for fault in FILE_MUTANTS} | {("runtime", fault.name) for fault in faulty_runtimes()}
    planted = {(fault.place, fault.name) for fault in plant(micro, "f16", passing)}
    assert every - planted == {("file", "i2_s-lanes"), ("runtime", "i2_s-lanes"), ("runtime", "float-activations")}


def test_a_runtime_that_is_not_goref_gets_the_faults_of_the_file_only(plant, micro):
    assert {fault.place for fault in plant(micro, "f16", passing, runtimes=False)} == {"file"}


def test_the_margin_is_the_largest_ratio_of_the_rung(plant, micro):
    faults = plant(micro, "f16", out_of_tolerance, runtimes=False)
    assert {(fault.caught, fault.margin) for fault in faults} == {(True, 3.0)}


def test_a_failed_exact_rung_has_no_finite_margin(plant, micro):
    faults = plant(micro, "f16", lambda rung: judged(rung, 0, "things"), runtimes=False)
    assert {(fault.caught, fault.to_json()["margin"]) for fault in faults} == {(True, "inf")}


def test_a_fault_that_no_rung_sees_is_missed(plant, micro):
    assert not any(fault.caught for fault in plant(micro, "f16", passing))


def test_a_fault_that_only_another_rung_sees_is_missed(plant, micro):
    faults = plant(micro, "f16", lambda rung: (out_of_tolerance if rung == "greedy" else passing)(rung))
    assert not any(fault.caught for fault in faults)


def test_a_rung_that_was_not_run_caught_nothing(plant, micro):
    faults = plant(micro, "f16", lambda rung: not_run(rung, "for a test"))
    assert not any(fault.caught for fault in faults)
