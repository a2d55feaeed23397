"""Training: tokenizer, token shards, model, deterministic resumable runs, checkpoints."""
