"""What every call shares: the interceptor, one log line, statuses, streams and limits of responses."""
