"""Digests of the prefixes of prompts."""
