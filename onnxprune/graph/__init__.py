"""What a graph is: axes, operators, groups, layers, costs and plans; cutting and masking it."""
