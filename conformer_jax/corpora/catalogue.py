"""The corpora that `prepare` knows by name."""

from conformer_jax.corpora.any_sound import ANY
from conformer_jax.corpora.esc50 import ESC_10, ESC_50

CORPORA = {corpus.name: corpus for corpus in (ANY, ESC_50, ESC_10)}
