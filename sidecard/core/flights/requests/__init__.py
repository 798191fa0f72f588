"""Requests about calls, one module each, and the events that end calls without a request."""
