"""The commands of parity, and verdicts on a terminal."""
