"""Outputs for people and monitoring: logs, HTTP, pushed metrics, the call log."""
