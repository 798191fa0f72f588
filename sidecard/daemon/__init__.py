"""The assembled daemon: settings, engine, server, store and sinks, and the order in which they stop."""
