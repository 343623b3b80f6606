"""Recovery without training: making what is left as good as unlabelled data allows.

The numerical rooms know arrays and no model:

* ``patches``: the rows a linear layer multiplies its weights with (im2col, tokens).
* ``gram``: streaming second moments of such rows and of their targets.
* ``elimination``: which units to remove, and what each removal costs (group OBS).
* ``least_squares``: the best weights for what is left.
* ``obs`` and ``pcg``: single weights instead of units.

These walk two models, the dense one and what is left of it:

* ``structured``: every layer front to back; ``steps`` says which and to what, ``measure`` what they
  see, ``pairs`` refits two layers at once, ``normalisation`` gains, ``correction`` biases alone.
* ``correspond``: what another tool removed; ``matching``, ``branches`` and ``places`` match the
  graphs, ``kept_axes`` and ``alignment`` the weights, ``twin``, ``folding`` and ``support`` carry
  refits back.
"""
