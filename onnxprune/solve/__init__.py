"""Numpy in, numpy out: the best weights, masks and widths; nothing here knows a graph.

* ``im2col``, ``patch_sampling``: the rows a linear layer multiplies its weights with.
* ``moments``: streaming second moments of such rows and of their targets.
* ``group_obs``: which units to remove, and the error of each removal.
* ``least_squares``, ``refit``, ``pairs``: the best remaining weights of one layer, or of two at
  once; ``two_layer``: the outputs and the error of two layers.
* ``masks``, ``permute``, ``admm``, ``obs``, ``support``: single weights instead of units.
* ``affine``: gains and biases of normalisations.
* ``knapsack``, ``coupled``: widths that meet a budget; ``bootstrap``: intervals of latencies.
"""
