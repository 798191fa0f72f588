"""The shell around the engine: bytes in, bytes out, and no decision of its own."""
