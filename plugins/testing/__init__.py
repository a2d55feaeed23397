"""The certification kit: `conform plugins certify` runs it, and so can the tests of any plugin.

from conform.plugins.testing import certify

def test_it_keeps_every_promise():
    certificate = certify(MyQuantizer())
    assert certificate, certificate
"""

from conform.plugins.testing.battery import CHECKS, Certificate, certify
from conform.plugins.testing.check import Check, CheckResult
from conform.plugins.testing.receipt import make_receipt, receipt_findings

__all__ = ["CHECKS", "Certificate", "Check", "CheckResult", "certify", "make_receipt", "receipt_findings"]
