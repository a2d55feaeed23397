"""goref: a small Go reference runtime, and the toolchain that builds it."""
