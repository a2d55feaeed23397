import numpy as np
import pytest

from conform.plugins.host import load_registry
from conform.plugins.quantizers.q8_0 import Q8_0
from conform.plugins.testing import CHECKS, Certificate, certify, process
from conform.plugins.testing.accuracy import error_ceiling, error_floor

from .broken import BROKEN
from .sound import Sound

# Another process for each of them would take longer than all other checks together.
WITHIN_ONE_PROCESS = tuple(check for check in CHECKS if check not in process.CHECKS)


def test_the_sound_quantizer_is_certified():
    certificate = certify(Sound())
    assert certificate, certificate


@pytest.mark.parametrize(("broken", "expected"), BROKEN.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_quantizer_fails_for_its_own_reason_and_no_other(broken, expected):
    certificate = certify(broken(), WITHIN_ONE_PROCESS)
    assert not certificate
    assert {failure.check for failure in certificate.failures} == expected, certificate


def test_every_check_has_a_quantizer_that_fails_it():
    assert set().union(*BROKEN.values(), {"fresh-process"}) == {check.id for check in CHECKS}


def test_a_quantizer_that_depends_on_string_hashes_fails_in_another_process(site_packages, plain_source, monkeypatch):
    unstable = plain_source.replace("values.reshape(-1)", "(values.reshape(-1) * np.float32(hash('scale')))")
    site_packages.install("unstable", unstable)
    monkeypatch.syspath_prepend(str(site_packages.folder))
    (check,) = process.CHECKS
    stable = certify(Q8_0(), (check,))
    assert stable, stable
    certificate = certify(load_registry().quantizers["plain"], (check,))
    assert "another process gives other bytes or values" in str(certificate)


def test_a_quantizer_that_no_other_process_can_import_is_not_judged_by_it():
    class Local(Sound):
        pass

    (result,) = certify(Local(), process.CHECKS).results
    assert result.outcome == "not applicable"


def shipped():
    """What is built in; the IQ types take seconds each, since their kernels are compiled first."""
    for name in load_registry().quantizers:
        yield pytest.param(name, marks=[pytest.mark.slow] if name.startswith("iq") else [])


@pytest.mark.parametrize("name", list(shipped()))
def test_what_ships_is_certified(name):
    certificate = certify(load_registry().quantizers[name])
    assert certificate, certificate


def test_a_quantizer_that_raises_anything_fails_without_stopping_the_battery():
    class Raises(Sound):
        def quantize(self, values, importance=None):
            raise KeyError("scale")

    certificate = certify(Raises())
    assert len(certificate.results) == len(CHECKS)
    assert "raised KeyError: 'scale'" in str(certificate)


def test_nothing_checked_is_no_certificate():
    assert not Certificate("sound", ())
    assert not certify(Sound(), checks=())


def test_the_process_is_left_as_it_was(monkeypatch):
    monkeypatch.setenv("CONFORM_THREADS", "2")
    state, errors = np.random.get_state()[1].tobytes(), np.geterr()
    certify(Q8_0())
    assert np.random.get_state()[1].tobytes() == state
    assert np.geterr() == errors
    monkeypatch.undo()


def test_the_ceiling_falls_with_the_bits_and_stays_above_the_floor():
    bits = np.linspace(0.5, 32, 100)
    ceilings = [error_ceiling(b) for b in bits]
    assert ceilings == sorted(ceilings, reverse=True)
    assert all(error_floor(b) < error_ceiling(b) < 1 for b in bits)
