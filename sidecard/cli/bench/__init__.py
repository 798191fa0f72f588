"""``sidecard bench``: compare the speed of sidecard with other software."""
