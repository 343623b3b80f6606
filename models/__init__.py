"""Builds and trains the small zoo in ``onnxprune/data/zoo_data`` (needs torch and scikit-learn)."""
