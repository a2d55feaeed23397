"""One driver for each kind of runtime."""
