"""The laws of calls, written a second time, for the property tests and the simulation to judge the daemon by."""
