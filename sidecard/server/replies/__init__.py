"""Replies that several peers get: large values, and metrics."""
