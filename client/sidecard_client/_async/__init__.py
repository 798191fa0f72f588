"""The awaiting client, on asyncio and trio."""
