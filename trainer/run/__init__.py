"""A training run: launched, looped, measured, reported."""
