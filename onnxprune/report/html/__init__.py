"""The report as one HTML page that needs nothing but itself.

`documents` reads what the commands printed with ``--json``, `families` puts together what is about
the same model, one room per section writes its tables, and `page` assembles them. All numbers are
in tables, so that the page can be read, searched and printed without scripts; the scripts in
``assets`` draw the charts and let the tables be filtered.
"""
