"""Integrations of HTTP libraries other than httpx. A module imports its library, so it is imported by name only."""
