"""The engine's side of the store, the durable second tier. Without a store, all of this does nothing."""
