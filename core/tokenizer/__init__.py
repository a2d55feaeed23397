"""Tokenizers: their files, the vocabularies that these hold, and what a contract asks of them."""
