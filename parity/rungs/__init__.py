"""The rungs of the ladder, one file each: a function from what it reads to a result."""
