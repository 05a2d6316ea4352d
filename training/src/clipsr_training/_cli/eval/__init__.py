"""The commands of `clipsr-eval`, a module each."""
