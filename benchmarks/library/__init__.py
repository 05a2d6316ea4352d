"""Image libraries: precision, adding, large tables."""
