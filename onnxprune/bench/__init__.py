"""Measuring models on the backends they ship on.

* ``worker``: the process of one model, which does what it is asked and nothing else.
* ``process``: such a process, from outside; whatever kills it becomes a reason.
* ``protocol``: warm until stable, then rounds in balanced random order, in several processes each.
* ``interval``: the ratio of two models' latencies, and between what it may be.
* ``samples``: what the models are fed.
* ``outputs``: what models put out, compared and scored.
* ``job``: all of it, for every backend, batch size and number of threads.
* ``schema``: the result as plain data; ``rows``: what was measured put into it.
* ``environment``: what it was measured on.
* ``terminal``, ``plot``: ways to show it.

(The scripts in the folder ``bench`` at the top of the repository are something else: experiments
behind published numbers, not part of the package.)
"""
