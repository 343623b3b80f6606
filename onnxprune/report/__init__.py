"""What a run has to say, as plain data, and the ways of showing it.

`schema` is the data and its JSON form, `gather` makes it from an analysis and a plan, and
`terminal` draws it. Nothing is shown in one form that is not in the data.
"""
