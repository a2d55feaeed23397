"""The contract: what a model is, frozen and digest-bearing."""
