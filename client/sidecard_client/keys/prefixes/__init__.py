"""Digests of the beginnings of prompts."""
