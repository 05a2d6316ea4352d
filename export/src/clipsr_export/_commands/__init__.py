"""The subcommands of `clipsr-export`."""
