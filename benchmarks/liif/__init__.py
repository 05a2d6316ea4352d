"""LIIF, its exact rewrite and the shipped upscaler, timed."""
