"""Corpora: from recordings, as people have them, to ArrayRecord shards that TFDS opens."""
