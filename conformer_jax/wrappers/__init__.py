"""A trained model for the evaluation kits of others; docs/evaluation_kits.md has their setup."""
