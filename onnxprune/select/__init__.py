"""What to remove: the importance of units, and widths allocated under a budget."""
