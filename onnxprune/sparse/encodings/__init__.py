"""Weights on disk: dense, sparse as ONNX has it, or packed and decoded by standard operators.

* ``table``: the encodings, each a class: its size, what is stored, how it is decoded, who reads it.
* ``sparsity_stats``: what the zeros of a weight look like.
* ``weights``: the weights of a model, and how their values are written.
* ``choose``: which weight gets which encoding.
* ``graph_builder``, ``write``: decoders as they are built, and weights put into a model.

``model.decode`` makes packed weights dense again; ``jobs.store`` is the job.
"""
