"""``sidecard demo``: several workers, one daemon and a real model."""
