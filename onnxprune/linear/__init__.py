"""The linear layers of a graph: where they are, what they read, where their outputs count."""
