"""Pure functions of (state, batch, key): the two training steps and what they are made of."""
