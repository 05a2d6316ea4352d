"""The process: gRPC server, health, metrics and the operations port, assembled from the rooms below."""
