"""INT8 after pruning: onnxruntime's quantizer, set so that it keeps zeros, and a check that it did.

* ``purposes``: what the result is for, and which settings of the quantizer that takes.
* ``preparation``: a float model in the form that the quantizers need.
* ``quantizer``: onnxruntime's static and dynamic quantizers, from model to model.
* ``ranges``: ranges of activations, measured within the memory budget.
* ``exclusions``: nodes that are left out, and why; a first run of the result.
* ``zeros``: whether every zero of a weight is still one, and N:M still there.
* ``rows``: linear weights laid out as ``[N, K]``, which OpenVINO's sparse INT8 kernel wants.
* ``job``: the job made of these.
"""

from onnxprune.jobs.quantize.job import Quantized, quantize

__all__ = ["Quantized", "quantize"]
