"""A run's checkpoints: copied off the devices, written whole, restored."""
