"""What families share about requests."""
