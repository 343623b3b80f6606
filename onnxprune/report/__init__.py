"""What a run has to say, as plain data, and the ways of showing it.

`schema` is the data and its JSON form, `gather` makes it from an analysis and a plan, `terminal`
and `html` show it, and `reading` takes it back from JSON. Nothing is shown in one form that is not
in the data.
"""
