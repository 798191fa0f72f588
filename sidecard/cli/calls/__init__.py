"""``sidecard calls``: query and export the call log."""
