"""Calls of many inputs whose missing answers one upstream call brings."""
