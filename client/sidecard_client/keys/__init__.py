"""Keys of requests: the recipe, names of functions, normal forms, and what makes two keys differ."""
