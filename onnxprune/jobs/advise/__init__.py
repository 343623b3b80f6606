"""What pays on a model and the backends it ships on, and when not to prune.

* ``evidence``: what is known: latency shares, sizes, reach, the machine; all measured or read.
* ``facts``: what is known of runtimes, each with its source.
* ``trials``: the commands of the advice carried out on few samples, and their results timed.
* ``methods``: whether each thing that could be done pays; ``judgement``: all of them, ranked; pure.
* ``job``: all of it for one model.
"""
