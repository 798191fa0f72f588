"""The store of many hosts: Redis or Valkey."""
