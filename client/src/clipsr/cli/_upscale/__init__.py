"""`clipsr-client upscale`."""
