"""Conformance cases: one file each, its path being its id, so that a new case needs no code."""
