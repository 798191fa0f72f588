"""Views: memory files with published entries, written by the daemon and read by clients."""
