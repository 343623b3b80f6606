"""Weights on disk: dense, sparse as ONNX has it, or packed and decoded by standard operators.

* ``forms``: the forms, their sizes, what decoding takes and who reads them.
* ``sparsity_stats``, ``values``, ``weights``: what a weight holds and how its values are written.
* ``choose``: which weight gets which form.
* ``coo``: the standard's sparse tensors; ``bitmask``, ``delta``, ``delta4``,
  ``two_of_four``: packed ones.
* ``graph_builder``, ``packed``: decoders as they are built, and put in front of a graph.
* ``pattern``: what the zeros of a weight look like.

``model.decode`` makes packed weights dense again; ``jobs.store`` is the job.
"""
