"""Measurements: accuracy and speed, each by a command that the README names."""
