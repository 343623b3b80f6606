"""Recovery without training: making what is left as good as unlabelled data allows.

``structured`` walks the dense model and what is left of it front to back; ``steps`` says which
layers are refitted and to what, ``measure`` what they see, ``normalisation`` mends gains,
``correction`` biases alone, ``support`` models whose single weights are zero. What weights should
be is found in ``onnxprune.solve``; where they are, in ``onnxprune.linear``.
"""
