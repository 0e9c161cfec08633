"""From clips to embeddings, a FAISS index, its card, and search."""
