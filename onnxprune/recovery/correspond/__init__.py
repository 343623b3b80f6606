"""What a model that somebody else pruned still has of the dense one.

``matching``, ``branches`` and ``folding`` bring the graphs together, ``kept_axes`` and
``alignment`` the weights, ``kept_units`` tells which units are left, ``twin`` carries refits back.
"""
