"""Sensitivity: what every group, block and weight costs when it alone is pruned, at several ratios.

`run` is the work from start to end; the result is `select.sensitivity`. A sweep is many cells
(one target at one ratio each) that need nothing of each other, so they run through the
``concurrent.futures.Executor`` interface (`executors`), and `collect` sees to it that none gets
lost.
"""
