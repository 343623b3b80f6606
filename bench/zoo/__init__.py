"""Stock exports of stock networks: the graphs users really bring (see bench/README.md)."""
