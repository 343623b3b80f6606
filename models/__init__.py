"""Builds and trains the small zoo in ``onnxprune/zoo_data`` (needs torch and scikit-learn)."""
