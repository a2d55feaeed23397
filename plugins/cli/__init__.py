"""The commands of plugins."""
