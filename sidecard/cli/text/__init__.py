"""Text for people: numbers with units, tables, and charts."""
