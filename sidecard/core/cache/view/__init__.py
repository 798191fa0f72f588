"""Views: memory files in which clients read published entries without asking the daemon. ViewSpace and bounds; the server writes."""
