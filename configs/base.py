"""The defaults of every field: each with its unit, range and source in conformer_jax/fields.py.

`pretrain.py` and `finetune.py` are deltas on them.
"""

from conformer_jax.fields import check_variant, get_config

__all__ = ["check_variant", "get_config"]
