"""Runs that change the interface of a model: fewer ids, classes or features in and out.

``narrowing`` makes the narrowed model that stands for the dense one in a run; ``kept_ids``,
``class_axis`` and ``class_labels`` read what is to stay. ``alignment`` brings a narrowed model and
its original to the same inputs and outputs, ``mapped_data`` labels.
"""
