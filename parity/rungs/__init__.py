"""The rungs of the ladder, one file each: a function from the evidence to a result."""
