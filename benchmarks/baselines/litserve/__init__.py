"""The same model in LitServe, which forms batches."""
