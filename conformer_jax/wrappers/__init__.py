"""A trained model for the evaluation kits of others: docs/evaluation_kits.md says how to run them."""
