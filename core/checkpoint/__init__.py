"""Checkpoints: safetensors, and the sidecar beside them."""
