"""Top-1 on CIFAR through the running service."""
