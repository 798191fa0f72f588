"""Models of the prefixes that backends have processed and keep."""
