"""The quantizers that ship with conform."""
