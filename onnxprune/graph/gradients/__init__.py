"""What every operator passes back: the gradient rules, by operator family."""
