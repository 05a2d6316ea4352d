"""Authentication and rate limits: API keys, callers, TLS."""
