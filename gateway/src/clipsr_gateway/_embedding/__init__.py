"""EmbeddingService: embeddings of images and texts."""
