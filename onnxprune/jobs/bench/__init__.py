"""Measuring models on the backends they ship on.

* ``samples``: what the models are fed; ``outputs``: what they put out, compared and scored.
* ``job``: all of it, for every backend, batch size and number of threads.
* ``schema``: the result as plain data; ``rows``: what was measured put into it.

Timing itself is ``onnxprune.evaluate`` (``protocol``, ``process``, ``worker``). The scripts in the
folder ``bench`` at the top of the repository are something else: experiments behind published
numbers, not part of the package.
"""
