"""Recovery without training: making what is left as good as unlabelled data allows.

The numerical rooms know arrays and no model:

* ``patches``: the rows a linear layer multiplies its weights with (im2col, tokens).
* ``gram``: streaming second moments of such rows and of their targets.
* ``elimination``: which units to remove, and what each removal costs (group OBS).
* ``least_squares``: the best weights for what is left.
* ``obs`` and ``pcg``: single weights instead of units.
"""
