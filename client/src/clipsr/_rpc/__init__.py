"""Channels, credentials, retries, errors of calls, health and flow control, for both clients."""
