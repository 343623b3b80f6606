"""Values that every room speaks of: checks and what became of layers."""
