"""JSON lines: convert messages from and to msgpack, and send the lines of one peer."""
