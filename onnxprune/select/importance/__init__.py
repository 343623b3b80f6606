"""What units are worth: error curves from calibration data, or scores of a criterion."""
