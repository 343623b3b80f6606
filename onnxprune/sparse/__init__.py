"""Single weights set to zero, unstructured or N:M, and the others refitted.

* ``targets``: which weights are made sparse, and why others stay dense.
* ``rows``: norms of the inputs of layers, and moments that rounding cannot spoil.
* ``select``: which weights of a layer are removed.
* ``layer_sparsity``, ``probe``, ``fisher``: the sparsity of every layer.
* ``layerwise``: layers made sparse and refitted, front to back.
* ``reorder``: units of dependency groups reordered so that N:M costs less.
* ``zeros``: masks applied to a model, and the zeros that a model has.
* ``nm``: N:M by magnitude alone; ``eligibility``: whether TensorRT may run a finished model
  sparsely.
* ``encodings``: how zeros are stored.

``sparsify`` puts these together; ``jobs.sparsify`` is its place in a run, where the remaining
weights are then trained as a whole (``train.distill``).
"""
