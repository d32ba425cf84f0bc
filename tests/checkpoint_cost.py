"""What digests cost: seconds of saving and restoring configs/pretrain.py:tiny (3 M parameters).

python tests/checkpoint_cost.py
"""

import pathlib
import statistics
import sys
import tempfile
import time

import jax

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from configs import pretrain
from conformer_jax.training import checkpoint, digest, program, progress

REPEATS = 7


def seconds(function):
    """Median of several calls."""
    taken = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        function()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def main():
    progress.set_up_logging(active=False)
    built = program.build(program.without_statistics(pretrain.get_config("tiny")))
    state = built.init(jax.random.key(0))
    tree = {"params": state.params, "opt_state": state.opt_state}
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    print(f"{count / 1e6:.2f} M parameters, {size / 1e6:.0f} MB with the optimizer")
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = checkpoint.Checkpoints(folder)
        steps = iter(range(1, REPEATS + 1))

        def save():
            checkpoints.save(state.replace(step=jax.numpy.int32(next(steps))), {}, 0.0)
            checkpoints.wait()

        print(f"save, until on disk    {seconds(save):.3f} s")
        print(f"restore                {seconds(lambda: checkpoints.restore(state)):.3f} s")
        checkpoints.close()
    print(f"digests, part of each  {seconds(lambda: digest.of_tree(tree)):.3f} s")


if __name__ == "__main__":
    main()
