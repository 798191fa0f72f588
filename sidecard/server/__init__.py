"""The socket server around the engine: it moves bytes and takes no decisions about calls."""
