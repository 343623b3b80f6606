"""Latency as a budget: the latency of a cut on its backend, predicted, then measured."""
