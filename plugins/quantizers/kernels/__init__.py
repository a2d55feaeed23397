"""What numba compiles. Import lazily: every module here imports numba."""
