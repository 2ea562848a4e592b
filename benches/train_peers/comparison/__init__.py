"""Training steps of Slimbit and of PyTorch, interleaved."""
