"""A trained model written for other programs: one file a format."""
