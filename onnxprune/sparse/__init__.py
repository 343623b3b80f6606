"""Single weights set to zero, unstructured or N:M, and those that stay refitted.

* ``amount``: how much is asked for, ``50%`` or ``2:4``.
* ``weights``: which weights can be thinned, why others cannot, and how they are read and written.
* ``rows``: second moments of what a layer reads, in the dense and in the thinned model.
* ``select``: which weights of a layer go.
* ``spread``, ``shares``, ``probe``: how much of every layer goes.
* ``layerwise``: layers thinned and refitted, front to back.
* ``reorder``: units of dependency groups reordered so that N:M costs less.
* ``zeros``: masks applied to a model, and what a model really has.

``onnxprune.sparsify`` is the job made of these; ``stage`` is its place in a run, where what is left
is then trained as a whole (``onnxprune.gradient``).
"""
