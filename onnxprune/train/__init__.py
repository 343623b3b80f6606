"""What is left of a network trained as a whole by gradients, without a training framework."""
