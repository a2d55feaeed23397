"""i2_s: the ternary rule, the three byte layouts, and the way from one to another."""
