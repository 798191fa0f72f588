"""An app's own metrics and traces."""
