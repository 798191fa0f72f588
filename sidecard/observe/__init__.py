"""What people see of the daemon: listeners to notes."""
