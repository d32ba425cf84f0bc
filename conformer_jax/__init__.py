"""Self-supervised Conformers for non-speech audio in JAX."""
