"""Hugging Face's config.json: what each of its keys means, as data, and how they are read."""
