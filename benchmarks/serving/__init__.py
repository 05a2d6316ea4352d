"""The service beside what people would otherwise run: `python -m benchmarks.serving --help`, or `make bench`."""
