"""Checkpoints: safetensors, the sidecar and the tokenizer beside them."""
