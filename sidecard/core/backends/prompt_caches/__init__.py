"""Models of what backends have processed of earlier prompts."""
