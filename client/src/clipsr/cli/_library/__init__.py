"""`clipsr-client library`: keep images, find them by words or by example."""
