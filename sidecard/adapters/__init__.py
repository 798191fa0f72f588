"""Optional libraries behind the interfaces that the core defines."""
