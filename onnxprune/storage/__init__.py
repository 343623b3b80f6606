"""Weights on disk: dense, sparse as ONNX has it, or packed and decoded by standard operators.

* ``forms``: the forms, their sizes, what decoding takes and who reads them.
* ``content``, ``values``, ``weights``: what a weight holds and how its values are written.
* ``choose``: which weight gets which form.
* ``coo``: the standard's sparse tensors; ``bitmask``, ``delta``, ``delta4``,
  ``nibble``: packed ones.
* ``pieces``, ``packed``: decoders as they are built, and put in front of a graph.
* ``folding``, ``densify``: back to dense.
* ``pattern``: what the zeros of a weight look like; ``mask``: zeros as a plan.
* ``stored``, ``check``: the job, and the proof that what was written can be read.
"""
