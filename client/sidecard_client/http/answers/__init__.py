"""What families share about answers."""
