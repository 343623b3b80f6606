"""Single weights set to zero, unstructured or N:M, and those that stay refitted.

* ``targets``: which weights are thinned, and why others stay dense.
* ``rows``: second moments of what a layer reads, in the dense and in the thinned model.
* ``select``: which weights of a layer go.
* ``layer_sparsity``, ``shares``, ``probe``: how much of every layer goes.
* ``layerwise``: layers thinned and refitted, front to back.
* ``reorder``: units of dependency groups reordered so that N:M costs less.
* ``zeros``: masks applied to a model, and what a model really has.
* ``nm``: N:M by magnitude alone; ``eligibility``: whether TensorRT may run a finished model
  sparsely.
* ``encodings``: the forms zeros are stored in.

``sparsify`` is the step made of these; ``jobs.sparsify`` is its place in a run, where what is
left is then trained as a whole (``train.distill``).
"""
