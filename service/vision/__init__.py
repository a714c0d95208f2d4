"""Photos to embeddings: decode, detect, align, assess, encode, in batches formed across requests."""
