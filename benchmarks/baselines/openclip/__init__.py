"""open_clip in PyTorch behind FastAPI, as a user would write it."""
