"""What docs/reliability.md promises, measured on a running service: `python -m benchmarks.reliability --help`."""
