"""Models in Flax linen; imports nothing of the package outside this folder.

Dimensions, in shapes such as `[B, T, D]`:

    B  batch            N  samples            T  frames or tokens    F  mel bins
    D  width            H  attention heads    M  masked positions    K  distractors
    G  codebook groups  V  codebook entries   C  classes

`valid` marks what is real and not padding; `masked` what the objective hides.
"""
