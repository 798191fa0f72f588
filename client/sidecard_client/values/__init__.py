"""Values of answers: plain ones, and those of annotated types. See `forms`."""
