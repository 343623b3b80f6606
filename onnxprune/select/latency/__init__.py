"""Latency as a budget: what a cut takes on the backend it is for, predicted, then measured."""
