"""Finds what a model pruned elsewhere still has of the dense one.

``matching``, ``branches`` and ``folding`` bring the graphs together, ``kept_axes`` and
``alignment`` the weights, ``kept_units`` finds the remaining units, ``twin`` carries refits back.
"""
