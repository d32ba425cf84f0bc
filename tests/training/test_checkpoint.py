"""Checkpoints: what is kept, strict names, and a disk that fills up while writing."""

import errno
import json
import logging
import math
import random
import resource
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import pretrain
from conformer_jax.errors import UserError
from conformer_jax.steps import state
from conformer_jax.training import checkpoint, saved_files, workdir


def make_state(step=0, width=4, **more):
    params = {
        "encoder": {"stack": {"kernel": jnp.full((3, width), float(step))}, **more},
        "head": {"bias": jnp.zeros(2)},
    }
    created = state.create(params, None, optax.adam(1e-3), None, ema_decay=0.5)
    return created.replace(step=jnp.int32(step))


def save_and_wait(checkpoints, saved):
    checkpoints.save(saved, {}, 0.0)
    checkpoints.wait()


@pytest.fixture
def checkpoints(tmp_path):
    manager = checkpoint.Checkpoints(tmp_path, keep_last=2, keep_best=1)
    yield manager
    manager.close()


def test_the_last_and_the_best_are_kept_also_after_a_restart(checkpoints, tmp_path):
    for step, metric in [(1, 0.1), (2, 0.9), (3, 0.3)]:
        checkpoints.save(make_state(step), {}, metric)
    checkpoints.wait()
    checkpoints.close()
    again = checkpoint.Checkpoints(tmp_path, keep_last=2, keep_best=1)
    for step, metric in [(4, 0.2), (5, 0.1)]:
        again.save(make_state(step), {}, metric)
    again.wait()
    assert again.steps() == [2, 4, 5]
    again.close()


def test_everything_comes_back(checkpoints):
    saved = make_state(7).replace(skipped=jnp.int32(3))
    checkpoints.save(saved, {"label_names": ["b", "a"]}, 0.0)
    checkpoints.wait()
    restored, meta = checkpoints.restore(make_state(0))
    for a, b in zip(jax.tree.leaves(saved), jax.tree.leaves(restored), strict=True):
        np.testing.assert_array_equal(a, b)
    assert meta["label_names"] == ["b", "a"]


def test_nothing_there_is_no_error(checkpoints, tmp_path):
    assert checkpoints.restore(make_state()) == (None, None)
    assert checkpoint.read_meta(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"null", b"{}", b"[]", b'{"config": 3}', b"\xff\x00"])
def test_a_description_that_no_run_wrote_is_none(checkpoints, tmp_path, content):
    save_and_wait(checkpoints, make_state(1))
    (tmp_path / "checkpoints" / "1" / "meta" / "metadata").write_bytes(content)
    assert checkpoint.read_meta(tmp_path) is None
    with pytest.raises(UserError, match=r"step 1: .*metadata"):
        checkpoints.restore(make_state(0))


def test_a_run_of_another_architecture_names_what_differs(checkpoints):
    checkpoints.save(make_state(1), {}, 0.0)
    checkpoints.wait()
    with pytest.raises(UserError, match=r"stack/kernel \(3, 4\) instead of \(3, 5\)"):
        checkpoints.restore(make_state(0, width=5))
    with pytest.raises(UserError, match=r"1 missing \(encoder/extra\)"):
        checkpoints.restore(make_state(0, extra=jnp.zeros(1)))


def test_the_encoder_alone_is_taken_the_average_where_there_is_one(checkpoints, tmp_path):
    saved = make_state(1)
    average = jax.tree.map(lambda x: x + 5, saved.params)
    checkpoints.save(saved.replace(ema=average), {}, 0.0)
    checkpoints.wait()
    target = make_state(0).params | {"head": {"kernel": jnp.ones(9)}}
    params, step = checkpoint.load_encoder(tmp_path, target)
    assert step == 1
    np.testing.assert_array_equal(params["encoder"]["stack"]["kernel"], np.full((3, 4), 6.0))
    np.testing.assert_array_equal(params["head"]["kernel"], np.ones(9))
    with pytest.raises(UserError, match=r"1 missing \(extra\)"):
        checkpoint.load_encoder(tmp_path, make_state(0, extra=jnp.zeros(1)).params)


def test_a_disk_that_fills_up_while_writing_loses_nothing(checkpoints):
    checkpoints.save(make_state(1), {}, 0.0)
    checkpoints.wait()
    large = make_state(2, noise=jax.random.normal(jax.random.key(0), (64, 1024)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # a write beyond it fails
    try:
        with pytest.raises(UserError, match=r"cannot write the checkpoint.* from step 1$") as e:
            save_and_wait(checkpoints, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(e.value)
    restored, _ = checkpoints.restore(make_state(0))
    assert int(restored.step) == 1


HASTE = {"preempted": {}}


def test_a_checkpoint_saved_in_haste_stays_until_its_replacement_is_whole(
    checkpoints, tmp_path, monkeypatch
):
    folder, config = tmp_path / "checkpoints", pretrain.get_config("smoke")
    checkpoints.save(make_state(1), {**HASTE, "config": config.to_dict()}, 0.0)
    checkpoints.wait()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
        with pytest.raises(UserError, match=r"no room for a checkpoint.* goes on from step 1"):
            checkpoints.save(make_state(1), {}, 0.5)
    assert "preempted" in checkpoint.read_meta(tmp_path)
    # A kill in the midst of writing: nothing is whole, and the former comes back with the run.
    monkeypatch.setattr(checkpoints._manager, "save", lambda *args, **kwargs: None)
    checkpoints.save(make_state(1), {}, 0.5)
    assert not (folder / "1").exists()
    workdir.claim(tmp_path, config)
    again = checkpoint.Checkpoints(tmp_path)
    restored, meta = again.restore(make_state(0))
    assert (int(restored.step), "preempted" in meta) == (1, True)
    again.save(make_state(1), {}, 0.5)
    again.wait()
    again.close()
    assert "preempted" not in checkpoint.read_meta(tmp_path)
    assert not list(tmp_path.glob("replaced*"))


def test_what_was_replaced_goes_with_the_next_save_and_never_comes_back_late(checkpoints, tmp_path):
    checkpoints.save(make_state(1), HASTE, 0.0)
    checkpoints.save(make_state(1), {}, 0.5)
    checkpoints.save(make_state(2), {}, 0.6)
    assert not list(tmp_path.glob("replaced*"))
    checkpoints.wait()
    # Left by a kill of an earlier version: later steps are there.
    (tmp_path / "replaced_checkpoint_0").mkdir()
    saved_files.settle_replaced(tmp_path / "checkpoints")
    assert sorted(saved_files.steps(tmp_path / "checkpoints")) == [1, 2]
    assert not list(tmp_path.glob("replaced*"))


def test_deleted_checkpoints_are_deleted(tmp_path):
    """What was replaced lies beside them, and would be another run's."""
    (tmp_path / "replaced_checkpoint_5").mkdir(parents=True)
    workdir.claim(tmp_path, pretrain.get_config("smoke"))
    (tmp_path / "checkpoints").mkdir()
    workdir.claim(tmp_path, pretrain.get_config("smoke"))
    assert saved_files.steps(tmp_path / "checkpoints") == []


def test_a_replacement_that_cannot_be_written_leaves_what_was_there(checkpoints, tmp_path):
    checkpoints.save(make_state(1), HASTE, 0.0)
    checkpoints.wait()

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    checkpoints._manager.save = full
    with pytest.raises(UserError, match=r"no space left; .* goes on from step 1"):
        checkpoints.save(make_state(1), {}, 0.5)
    assert checkpoints.steps() == [1]


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(checkpoints, tmp_path, caplog):
    save_and_wait(checkpoints, make_state(1))
    save_and_wait(checkpoints, make_state(2))
    flip(largest(tmp_path / "checkpoints" / "2" / "params"), 200)
    restored, _ = checkpoints.restore(make_state(0))
    assert int(restored.step) == 1
    assert "checkpoint of step 2 cannot be read" in caplog.text
    assert (tmp_path / "unreadable_checkpoint_2").is_dir()
    assert checkpoints.steps() == [1]


def test_parameters_that_are_not_finite_are_refused(checkpoints, tmp_path):
    save_and_wait(checkpoints, make_state(1))
    save_and_wait(checkpoints, make_state(2, gain=jnp.array([1.0, math.nan])))
    with pytest.raises(UserError, match="left over"):
        checkpoints.restore(make_state(0))
    with pytest.raises(UserError, match=r"encoder/gain holds numbers that are not finite"):
        checkpoints.restore(make_state(0, gain=jnp.zeros(2)), 2)
    with pytest.raises(UserError, match=r"encoder/gain holds numbers that are not finite"):
        checkpoint.read_item(tmp_path / "checkpoints" / "2" / "params")


def test_a_checkpoint_from_before_digests_is_restored_and_said_to_be(checkpoints, tmp_path, caplog):
    save_and_wait(checkpoints, make_state(1))
    file = tmp_path / "checkpoints" / "1" / "meta" / "metadata"
    meta = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in meta.items() if k not in ("digests", "sha256")}))
    with caplog.at_level(logging.INFO):
        restored, meta = checkpoints.restore(make_state(0))
    assert int(restored.step) == 1
    assert caplog.text.count("from before digests") == 1
    # But a JSON object that was never written as one is damage, too.
    file.write_text("{}")
    with pytest.raises(UserError, match="no checkpoint's description"):
        checkpoints.restore(make_state(0))
    # And digests that are gone from a checkpoint that had them are damage.
    file.write_text(json.dumps({**meta, "sha256": "0"}))
    with pytest.raises(UserError, match="sha256 differs"):
        checkpoints.restore(make_state(0))


def test_no_flipped_bit_of_120_is_restored_in_silence(checkpoints, tmp_path):
    rng, noise = random.Random(0), jax.random.normal(jax.random.key(0), (64, 16))
    saved = make_state(3, noise=noise)
    save_and_wait(checkpoints, saved)
    folder = tmp_path / "checkpoints" / "3"
    files = [p for item in ("params", "training") for p in sorted((folder / item).rglob("d/*"))]
    sizes = [file.stat().st_size for file in files]
    before = [np.asarray(leaf) for leaf in jax.tree.leaves(saved)]
    refused = []
    for _ in range(120):
        file = rng.choices(files, sizes)[0]
        whole, bit = file.read_bytes(), rng.randrange(8 * file.stat().st_size)
        flip(file, bit)
        try:
            restored, _ = checkpoints.restore(saved, 3)
            after = [np.asarray(leaf) for leaf in jax.tree.leaves(restored)]
            assert all((a == b).all() for a, b in zip(before, after, strict=True)), (file, bit)
        except UserError as error:
            refused.append(str(error))
        file.write_bytes(whole)
    assert len(refused) > 40  # the others fell on what no array is read from
    assert all(str(tmp_path / "checkpoints") in said and "\n" not in said for said in refused)
    assert int(checkpoints.restore(saved, 3)[0].step) == 3


@pytest.mark.parametrize(
    "content", [b"", b"null", b"\xff\x00", b'{"metric": "high"}', b'{"metric": 1}']
)
def test_a_damaged_rank_is_written_again(checkpoints, tmp_path, caplog, content):
    for step, metric in [(1, 0.9), (2, 0.5), (3, 0.1)]:
        checkpoints.save(make_state(step), {}, metric)
    checkpoints.wait()
    file = tmp_path / "checkpoints" / "1" / "metrics" / "metrics"
    file.write_bytes(content)
    again = checkpoint.Checkpoints(tmp_path, keep_last=2, keep_best=1)
    again.save(make_state(4), {}, 0.2)
    again.wait()
    again.close()
    assert str(file) in caplog.text
    assert again.steps() == [1, 3, 4]  # the best is known again


def largest(folder):
    return max(folder.rglob("d/*"), key=lambda path: path.stat().st_size)


def flip(file, bit):
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


def test_late_reads_of_a_failed_restore_are_dropped_and_nothing_else(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "excepthook", lambda *args: seen.append(args[1]))
    saved_files.drop_late_reads()
    saved_files.drop_late_reads()
    late, other = RuntimeError("Event loop is closed"), RuntimeError("another")
    for error in (late, other):
        sys.excepthook(type(error), error, None)
    assert seen == [other]
