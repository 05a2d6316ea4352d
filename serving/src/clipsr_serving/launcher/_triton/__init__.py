"""Triton's command line, profiles, model repository and readiness."""
