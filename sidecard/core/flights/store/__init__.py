"""The engine's side of the store, the durable second tier. Without a store, these modules do nothing."""
