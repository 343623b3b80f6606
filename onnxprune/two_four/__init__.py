"""N:M sparsity of stored weights, wherever a graph keeps them, and what TensorRT makes of it.

* ``trace``: from a node back to the tensor stored for it, through whatever only moves it.
* ``readings``: the nodes that contract a stored weight, and along which axis.
* ``magnitude``: N:M by size alone, without data and without a layer's algebra.
* ``leave``: small, first and last layers, which may be worth more dense.
* ``eligibility``: layer by layer, whether TensorRT may run a finished model sparsely.
"""
