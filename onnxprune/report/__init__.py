"""Results shown: on a terminal, as one HTML page, as pictures.

The data are `jobs.results`; `reading` takes them back from JSON. Nothing is shown in one form
that is not in the data.
"""
