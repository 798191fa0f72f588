"""Operations on entries, breakers and settings, and the status replies."""
