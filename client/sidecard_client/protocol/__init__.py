"""The protocol between apps and daemon: messages, frames and a sans-I/O connection."""
