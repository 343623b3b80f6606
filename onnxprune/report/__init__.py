"""Results shown: on a terminal, as one HTML page, as pictures.

`columns` declares every table and `plots` every chart, once; `tables` and `html.markup` draw the
ones, `charts` and `drawing` the others. The data are `jobs.results`; `documents` takes them back
from JSON. Nothing is shown in one form that is not in the data.
"""
