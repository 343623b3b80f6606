"""Values inside a model while data run through it: the layer-by-layer runner and moments."""
