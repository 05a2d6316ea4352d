"""How many pods a load needs, and what they cost: `python -m benchmarks.scaling --help`, docs/scaling.md."""
