"""Calls of many inputs: one upstream call answers those that are neither stored nor in flight."""
