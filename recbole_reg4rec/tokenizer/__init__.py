"""The tokenizer: item features in, one token from each of M unordered codebooks out (MPQ)."""
