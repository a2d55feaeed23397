"""Judging a runtime that we did not write, from the outside."""
