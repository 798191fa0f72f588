"""Programs that the bench starts."""
