"""A trained model at work: tags, events, embeddings, bundles."""
