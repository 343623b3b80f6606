"""Unit importance: error curves from calibration data, or scores of a criterion."""
