"""Qdrant's FastEmbed behind FastAPI."""
