"""Settings: what exists, where values come from, and how they are checked."""
