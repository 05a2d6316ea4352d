"""`clipsr-client upscale` and `clipsr-client restore`."""
