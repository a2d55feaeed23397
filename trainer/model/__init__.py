"""The model that is trained: a Llama-style decoder, its loss, ternary linear layers."""
