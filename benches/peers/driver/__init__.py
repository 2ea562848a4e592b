"""The comparison of Slimbit's engine with its peers: see ../README.md."""
