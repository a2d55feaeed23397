"""Importance: what calibration text says about each column's weight."""
