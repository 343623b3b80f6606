"""Recovery without training: making what is left as good as unlabelled data allows.

``reconstruct`` walks the dense model and what is left of it front to back; ``order`` says which
layers are refitted and to what, ``pairs`` what they see, ``norm_compensation`` mends gains,
``bias_correction`` biases alone, ``sparse_refit`` models whose single weights are zero. What
weights should be is found in ``onnxprune.solve``; where they are, in ``graph.layers``;
``correspond`` finds what a model that somebody else pruned has lost.
"""
