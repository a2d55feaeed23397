"""Torture: campaigns that try to make conform fail, and a table of what they found."""
