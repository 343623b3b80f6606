"""Allocation: how many units each group keeps, so that a budget is met at the least damage."""
