"""Views: which entries are published, and where. Pure; `sidecard.server.views` writes the files."""
