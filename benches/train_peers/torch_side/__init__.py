"""PyTorch's side of the comparison."""
