"""Values of answers: plain ones, and those that a type brings back."""
