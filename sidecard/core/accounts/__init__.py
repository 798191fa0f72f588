"""Counts, costs and metrics of calls."""
