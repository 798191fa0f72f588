"""The kinds of calls that most SDKs and frameworks have."""

CALLS = ("plain", "streamed", "tools", "structured", "async_plain", "async_streamed")
"""The columns of the table. Apps may have further calls."""
