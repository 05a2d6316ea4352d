"""Messages and stubs generated from proto/clipsr/v1 by proto/generate.sh; this file alone is written by hand."""
