"""The commands `clipsr-train` and `clipsr-eval`."""
