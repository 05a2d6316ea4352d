"""A tokenizer as a `tokenizers` file."""
