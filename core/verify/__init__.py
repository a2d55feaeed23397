"""Verify: a GGUF file against its contract."""

from conform.core.verify.verify import Verification, verify_file

__all__ = ["Verification", "verify_file"]
