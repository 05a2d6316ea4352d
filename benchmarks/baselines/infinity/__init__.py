"""infinity (`infinity_emb`), which embeds images; it compares nothing with labels."""
