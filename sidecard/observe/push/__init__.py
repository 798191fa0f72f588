"""Pushed metrics: collection, a spool for outages, and delivery."""
