"""Token shards: text in, hashed shards out, batches in a reproducible order."""
