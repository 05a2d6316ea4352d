"""An image before and around inference: its header, its plan, one request to Triton, decoding and encoding."""
