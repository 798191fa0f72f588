"""``sidecard explain``: what a request's key consists of, and why two requests do not share."""
