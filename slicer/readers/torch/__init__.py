"""PyTorch's own formats."""
