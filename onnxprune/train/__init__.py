"""Train the remaining weights as a whole by gradients, without a training framework."""
