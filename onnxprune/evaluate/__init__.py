"""How good and how fast a model is.

* ``equivalence``: whether a cut model computes what its masked original does.
* ``output_comparison``, ``output_error``: how close the outputs of two models are.
* ``metrics``, ``standard_error``: how well a model does its task, and how sure that is.
* ``relative_error``, ``jackknife``: squared errors, and intervals that hold on few samples.
* ``evaluation``: both, against the dense model on inputs that nothing was fitted to.
* ``verdict``, ``tails``, ``caveats``: good, degraded or broken; what a mean hides, and few samples.
* ``protocol``, ``process``, ``worker``: latency, each model in processes of its own;
  ``latency``: a cut model beside the dense one; ``environment``: what it was measured on.
"""
