"""Verify: a GGUF file against its contract."""
