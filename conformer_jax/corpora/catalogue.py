"""The corpora that `prepare` knows by name."""

from conformer_jax.corpora.any_sound import ANY
from conformer_jax.corpora.audioset import AUDIOSET
from conformer_jax.corpora.esc50 import ESC_10, ESC_50
from conformer_jax.corpora.freesound import FSD50K, FSDKAGGLE2019
from conformer_jax.corpora.kinetics700 import KINETICS700
from conformer_jax.corpora.magnatagatune import MAGNATAGATUNE
from conformer_jax.corpora.speech_commands import SPEECH_COMMANDS
from conformer_jax.corpora.urbansound8k import URBANSOUND8K

_ALL = (
    ANY,
    ESC_50,
    ESC_10,
    SPEECH_COMMANDS,
    URBANSOUND8K,
    FSD50K,
    FSDKAGGLE2019,
    AUDIOSET,
    MAGNATAGATUNE,
    KINETICS700,
)
CORPORA = {corpus.name: corpus for corpus in _ALL}
