"""Audio in, batches out: numpy and audio libraries, no jax.

A batch is a pure function of (seed, step): `sampling` says which clips and crops it holds,
`sources` reads them, and `input_pipeline` (tf.data) or `host_loader` (threads) run the two
ahead of the training step; both yield the same bytes.
"""
