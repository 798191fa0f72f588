"""Backends: breakers, limits, queues, budgets and admission."""
