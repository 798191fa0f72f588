"""The HTTP listener: dashboard, health, metrics and summary."""
