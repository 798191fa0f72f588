"""How the daemon keeps data outside memory: a worker thread, a write-behind queue, and files that may be damaged or foreign."""
