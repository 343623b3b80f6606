"""The layers of a graph: nodes that contract a stored weight, and where their outputs count."""
