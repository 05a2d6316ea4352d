"""The seam to inference: the protocol, Triton behind it, and the coalescing of requests."""
