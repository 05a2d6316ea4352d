"""Between the public types and protobuf messages."""
