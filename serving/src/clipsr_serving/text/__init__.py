"""Labels and templates: prompts, tokens, embeddings, cache and text banks."""
