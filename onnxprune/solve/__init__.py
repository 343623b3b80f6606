"""What weights should be, from numbers alone: no room here knows a graph or a runtime.

* ``patches``, ``crops``: the rows a linear layer multiplies its weights with (im2col, tokens).
* ``gram``: streaming second moments of such rows and of their targets.
* ``elimination``: which units to remove, and what each removal costs (group OBS).
* ``least_squares``, ``refit``, ``pairs``: the best weights for what is left, of a layer or of two
  at once; ``chain``: what two layers compute, and how far that is off.
* ``admm``, ``obs``, ``pcg``, ``columns``: single weights instead of units.
* ``lines``: gains and biases of normalisations.
"""
