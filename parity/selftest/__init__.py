"""The self-test: planted faults, each of which a verdict must catch."""
