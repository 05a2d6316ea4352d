"""What people would otherwise run: servers of plain CLIP on the same weights, each in an environment of its own."""
