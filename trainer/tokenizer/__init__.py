"""The tokenizer: its recipe, and the check that a runtime can agree with it."""
