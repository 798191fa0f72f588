"""``sidecard bench``: ratios to other software that does the same work."""
