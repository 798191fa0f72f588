"""``sidecard demo``: several workers share the calls to a real local model."""
