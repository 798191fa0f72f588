"""The guard of similar requests: signatures that keep texts with different meanings apart."""
