"""The pure heart: events in, effects out. Imports nothing that can wait, tell the time, or roll dice."""
