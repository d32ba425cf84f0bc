"""What a run has heard and holds out, when its manifest changes and when its encoder is judged."""

import numpy as np
import pytest

from configs import finetune, pretrain
from conformer_jax.data.sources import source_spec
from conformer_jax.errors import UserError
from conformer_jax.training import clips, encoder_file

META = {"clips": clips.FILE}  # of a checkpoint
_SECTIONS = ("conformer", "features", "masking", "wav2vec2", "target")
OF_RUN = {"config": {section: {} for section in _SECTIONS}, "step": 1, "versions": {}}


def write(folder, names, seeds=None):
    """A manifest of files that differ; nothing decodes them. Returns its path."""
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        seed = i if seeds is None else seeds[i]
        (folder / name).write_bytes(np.random.default_rng(seed).bytes(300))
    manifest = folder / "manifest.csv"
    lines = [f"{name},{'ab'[i % 2]}" for i, name in enumerate(names)]
    manifest.write_text("\n".join(["path,label", *lines]) + "\n")
    return str(manifest)


def config_of(manifest, task="pretrain", **fields):
    config = (pretrain if task == "pretrain" else finetune).get_config("smoke")
    config.data.update(manifest=manifest, eval_share=0.25, **fields)
    config.init_from = ""
    return config


def opened(config, workdir, meta=None):
    return clips.open_all(source_spec(config), None, workdir, meta, config.init_from)


def begun(folder, names, seeds=None, **fields):
    """(config, workdir, Sources) of a run whose record is written."""
    config = config_of(write(folder, names, seeds), **fields)
    sources, known = opened(config, folder)
    clips.write(folder, known, sources.train)
    return config, folder, sources


def ids(source):
    return {source.example_id(i) for i in range(len(source))}


NAMES = [f"{i}.wav" for i in range(40)]


def test_what_was_drawn_comes_back_and_is_compared(tmp_path, caplog):
    config, workdir, sources = begun(tmp_path, NAMES)
    known = opened(config, workdir, META)[1]
    contents = np.sort(sources.train.contents())
    drawn = clips.Drawn(contents[5:], contents[:5])
    clips.check_draw(known, None)
    clips.check_draw(opened(config, tmp_path / "another")[1], drawn)  # a run that begins
    assert caplog.text == ""
    clips.check_draw(known, drawn)
    assert "WARNING this run was begun by a version that did not record which" in caplog.text
    write(tmp_path, [*NAMES[:-2], "x.wav"])
    with pytest.raises(UserError, match="which does not say which of them were drawn"):
        clips.check_draw(opened(config, workdir, META)[1], drawn)
    write(tmp_path, NAMES)
    clips.write(workdir, known, sources.train, drawn)
    assert [part.tolist() for part in clips.read(workdir).drawn] == [p.tolist() for p in drawn]
    known = opened(config, workdir, META)[1]
    caplog.clear()
    clips.check_draw(known, drawn)
    clips.check_draw(known, None)
    assert "did not record" not in caplog.text
    with pytest.raises(UserError, match="5 clips would be trained on"):
        clips.check_draw(known, clips.Drawn(contents, contents[:5]))
    # One that goes and comes back.
    assert NAMES[-1] in ids(sources.train)
    write(tmp_path, NAMES[:-1])
    sources, known = opened(config, workdir, META)
    there = sources.train.contents()
    fewer = clips.Drawn(*(np.intersect1d(part, there) for part in drawn))
    clips.check_draw(known, fewer)
    clips.write(workdir, known, sources.train, fewer)
    write(tmp_path, NAMES)
    clips.check_draw(opened(config, workdir, META)[1], drawn)
    # One that is new is drawn as it comes, one that came back is not.
    write(tmp_path, [*NAMES, "new.wav"])
    sources, known = opened(config, workdir, META)
    assert "new.wav" in ids(sources.train)
    more = drawn._replace(trained=np.setdiff1d(sources.train.contents(), drawn.validated))
    clips.check_draw(known, more)
    with pytest.raises(UserError, match="1 clips would be trained on"):
        clips.check_draw(known, more._replace(validated=drawn.validated[1:]))
    # What is drawn is written where nothing else has changed.
    clips.write(workdir, known, sources.train, more)
    known = opened(config, workdir, META)[1]
    other = clips.Drawn(more.validated, more.trained)
    clips.write(workdir, known, sources.train, other)
    assert [part.tolist() for part in clips.read(workdir).drawn] == [p.tolist() for p in other]


def test_labels_and_groups_are_part_of_what_processes_compare(tmp_path, monkeypatch):
    config = config_of(write(tmp_path, NAMES), "finetune", eval_folds=("1",))
    found = []

    def same_on_all(function, digest_of, what):
        found.append((digest_of(function()), function()[1]))
        return function()

    monkeypatch.setattr(clips.distributed, "same_on_all", same_on_all)
    for labels, groups in (("abab", "----"), ("abba", "----"), ("abab", "xx--"), ("abab", "--xx")):
        lines = [
            f"{name},{labels[i % 4]},{i // 2 % 2},{groups[i % 4].strip('-')}"
            for i, name in enumerate(NAMES)
        ]
        (tmp_path / "manifest.csv").write_text("\n".join(["path,label,fold,group", *lines]))
        opened(config, tmp_path)
    digests, listings = zip(*found, strict=True)
    assert len(set(digests)) == 4
    assert all(listing.names == listings[0].names for listing in listings)  # on the same sides


def test_the_record_comes_back_as_it_was(tmp_path):
    names = [*NAMES, "schön \udce9.wav"]
    _, _, sources = begun(tmp_path / "a", NAMES)
    record = clips.read(tmp_path / "a")
    listing = record.listing
    assert {n for n, out in zip(listing.names, listing.held_out, strict=True) if out} == ids(
        sources.held_out
    )
    assert listing.present.all()
    assert record.heard.has(listing.contents[~listing.held_out]).all()
    assert not record.heard.has(listing.contents[listing.held_out]).any()
    listing = clips.Listing(names, *(np.resize(array, 41) for array in listing[1:]))
    clips.write(tmp_path, clips.Known(listing, None, None), sources.train)
    found = clips.read(tmp_path)
    assert found.listing.names == names
    assert found.encoder is None
    assert not found.heard.whole


def test_a_changed_manifest_is_told_and_keeps_its_sides(tmp_path, caplog):
    config, workdir, before = begun(tmp_path, NAMES)
    opened(config, workdir, META)
    assert caplog.text == ""
    # 0.wav is gone, 1.wav holds something else, 2.wav has another name, two are new.
    seeds = [99, 2, *range(3, 40), 8000, 9000]
    write(tmp_path, ["1.wav", "two.wav", *NAMES[3:], "x.wav", "y.wav"], seeds)
    sources, known = opened(config, workdir, META)
    for part in ("2 new (such as ", "1 gone (such as 0.wav)", "1 replaced under the same"):
        assert part in caplog.text
    renamed = {"2.wav": "two.wav"}
    for then, now in zip(before, sources, strict=True):
        still = {renamed.get(name, name) for name in ids(then) - {"0.wav", "1.wav"}}
        assert still <= ids(now)
    # The run has heard what it heard, also what is gone; told once.
    clips.write(workdir, known, sources.train)
    record, old = clips.read(workdir), known.old
    assert record.heard.has(old.heard.clips).all()
    assert len(record.listing.names) == 41 + 2  # with 0.wav and what 1.wav was
    caplog.clear()
    again, _ = opened(config, workdir, META)
    assert caplog.text == ""
    assert ids(again.held_out) == ids(sources.held_out)


def test_a_clip_whose_fold_has_changed_stays_on_its_side(tmp_path, caplog):
    manifest = write(tmp_path, NAMES)
    text = (tmp_path / "manifest.csv").read_text().splitlines()
    folds = lambda shift: "\n".join(
        ["path,label,fold", *(f"{line},{(i + shift) % 4}" for i, line in enumerate(text[1:]))]
    )
    config = config_of(manifest, eval_folds=("1",))
    (tmp_path / "manifest.csv").write_text(folds(0))
    sources, known = opened(config, tmp_path)
    clips.write(tmp_path, known, sources.train)
    (tmp_path / "manifest.csv").write_text(folds(1))
    again, _ = opened(config, tmp_path, META)
    assert ids(again.held_out) == ids(sources.held_out)
    assert "WARNING 20 clips, such as 0.wav, are of other folds than when the run" in caplog.text
    assert ids(opened(config, tmp_path)[0].held_out) != ids(sources.held_out)  # a new run


def test_a_run_of_before_keeps_the_split_by_name(tmp_path, caplog):
    caplog.set_level("INFO")
    config, workdir, sources = begun(tmp_path, NAMES)
    (workdir / clips.FILE).unlink()
    old, known = opened(config, workdir, {})
    assert "begun when clips were held out by their paths" in caplog.text
    assert len(old.held_out) == 10
    assert ids(old.held_out) != ids(sources.held_out)
    clips.write(workdir, known, old.train)
    # Also when it goes on once more, with a record: copies on both sides, and clips that are new.
    assert opened(config, workdir, META)[1].by_name
    assert ids(opened(config, workdir, META)[0].held_out) == ids(old.held_out)
    copies = [0] * 20 + [*range(20, 40)]
    config, workdir, _ = begun(tmp_path / "b", NAMES, copies)
    (workdir / clips.FILE).unlink()
    old, known = opened(config, workdir, {})
    clips.write(workdir, known, old.train)
    assert ids(opened(config, workdir, META)[0].held_out) == ids(old.held_out)
    (workdir / clips.FILE).write_bytes(b"PK\3\4 no more")
    opened(config, workdir, META)
    assert "is damaged" in caplog.text
    assert "is lost or damaged: clips whose files have changed may change sides" in caplog.text


def judged(config, workdir, meta=None):
    sources, known = opened(config, workdir, meta)
    return clips.judge(config, known, *sources)


def test_an_encoder_is_asked_what_it_has_heard(tmp_path, caplog):
    """By content: the same clips under other names, labels and folds."""
    run = begun(tmp_path / "pretrain", NAMES)[1]
    copies = [f"copy_{name}" for name in NAMES]
    tuned = config_of(write(tmp_path / "labelled", copies), "finetune")
    tuned.init_from = str(run)
    held_out = len(opened(tuned, tmp_path)[0].held_out)
    assert judged(tuned, tmp_path) == {"heard": 0, "heard_of": held_out}
    assert caplog.text == ""
    text = (tmp_path / "labelled" / "manifest.csv").read_text().splitlines()
    folds = ["path,label,fold", *(f"{line},{i % 4}" for i, line in enumerate(text[1:]))]
    (tmp_path / "labelled" / "manifest.csv").write_text("\n".join(folds))
    tuned.data.eval_folds = ("2",)
    found = judged(tuned, tmp_path)
    assert 0 < found["heard"] <= found["heard_of"] == 10
    assert f"has heard {found['heard']} of the 10 held-out clips, such as copy_" in caplog.text
    tuned.data.refuse_heard = True
    with pytest.raises(UserError, match=r"config\.data\.refuse_heard: the encoder of .* has heard"):
        judged(tuned, tmp_path)


def test_copies_that_are_trained_on_and_held_out_are_counted(tmp_path, caplog):
    config = config_of(write(tmp_path, NAMES, [*range(39), 3]), "finetune")  # 39.wav is 3.wav
    lines = (tmp_path / "manifest.csv").read_text().splitlines()
    folds = [f"{line},{i % 4}" for i, line in enumerate(lines[1:])]
    (tmp_path / "manifest.csv").write_text("\n".join(["path,label,fold", *folds]))
    config.data.eval_folds = ("0",)
    assert judged(config, tmp_path) == {}
    assert caplog.text == ""
    folds[39] = "39.wav,b,0"
    (tmp_path / "manifest.csv").write_text("\n".join(["path,label,fold", *folds]))
    assert judged(config, tmp_path) == {"copies": 1}
    assert "1 of the 11 held-out clips are trained on, too" in caplog.text
    assert "such as 39.wav" in caplog.text


def test_what_was_heard_travels_with_fine_tuning_and_in_encoder_files(tmp_path, caplog):
    run = begun(tmp_path / "pretrain", NAMES)[1]
    tuned = config_of(write(tmp_path / "other", NAMES[:8], range(500, 508)), "finetune")
    tuned.init_from = str(run)
    sources, known = opened(tuned, tmp_path / "other")
    clips.write(tmp_path / "other", known, sources.train)
    assert clips.of_encoder(tmp_path / "other").has(known.encoder.clips).all()
    file = tmp_path / "e.safetensors"
    encoder_file.save(file, {"a": np.ones(3)}, OF_RUN, clips.of_encoder(run))
    found = clips.of_encoder(file)
    np.testing.assert_array_equal(found.clips, clips.of_encoder(run).clips)
    assert encoder_file.load(file)[1].keys() == {"a"}
    tuned = config_of(write(tmp_path / "same", NAMES), "finetune")
    tuned.data.eval_share, tuned.init_from = 0.5, str(file)
    assert judged(tuned, tmp_path)["heard"] > 0
    # What began as an encoder without a record has heard that, at least.
    tuned.init_from = "pretrained:tiny-wav2vec2"
    sources, known = opened(tuned, tmp_path / "same")
    clips.write(tmp_path / "same", known, sources.train)
    tuned.init_from = str(tmp_path / "same")
    tuned.data.eval_share = 0.9
    caplog.clear()
    assert judged(tuned, tmp_path)["heard"] > 0
    assert "has heard at least" in caplog.text


def test_what_is_not_recorded_is_said_once_and_never_counted(tmp_path, caplog):
    caplog.set_level("INFO")
    config = config_of(write(tmp_path, NAMES), "finetune")
    config.init_from = "pretrained:tiny-wav2vec2"
    assert judged(config, tmp_path) == {}
    assert judged(config, tmp_path) == {}
    said = "pretrained:tiny-wav2vec2 does not say which clips its encoder has heard"
    assert caplog.text.count(said) <= 1
    config.data.refuse_heard = True
    with pytest.raises(UserError, match="is not recorded; take an encoder of this version"):
        judged(config, tmp_path)
    config.init_from = ""  # nothing was heard, which is known
    assert judged(config, tmp_path) == {}


def test_a_large_corpus_leaves_the_file_of_a_small_encoder_below_ten_megabytes(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(encoder_file, "_HEARD_BYTES", 40_000)  # as 4 MB for 100 times as many
    heard = clips.heard.of_contents(
        np.random.default_rng(0).integers(0, 2**64, 20_000, dtype=np.uint64)
    )
    encoder_file.save(tmp_path / "e.safetensors", {"a": np.ones(3)}, OF_RUN, heard)
    assert (tmp_path / "e.safetensors").stat().st_size < 42_000
    found = clips.of_encoder(tmp_path / "e.safetensors")
    assert found.has(heard.clips).all()
    assert found.chance() < 0.001


def test_parts_of_one_recording_are_known_on_both_sides(tmp_path, caplog):
    """Also of an encoder that has heard another cut of it."""

    def cut(folder, step, **fields):
        config = config_of(write(folder, ["0.wav", "1.wav"]), **fields)
        rows = ["path,label,start,end,fold"]
        rows += [
            f"{f}.wav,{'ab'[f]},{i},{i + step},{f if f else i}" for f in (0, 1) for i in (0, 2)
        ]
        (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
        return config

    config = cut(tmp_path / "a", 1, train_folds=("0", "1"), eval_folds=("2",))
    assert judged(config, tmp_path / "a") == {"copies": 1}  # another part of 0.wav
    assert "parts of one recording, such as 0.wav" in caplog.text
    sources, known = opened(config, tmp_path / "a")
    clips.write(tmp_path / "a", known, sources.train)
    tuned = cut(tmp_path / "b", 2, task="finetune", train_folds=("1",), eval_folds=("0", "2"))
    tuned.init_from = str(tmp_path / "a")
    assert judged(tuned, tmp_path / "b") == {"heard": 2, "heard_of": 2}
    # Cut anew while the run goes on: other parts of what it was trained on are held out.
    config = cut(tmp_path / "a", 0.5, train_folds=("1",), eval_folds=("0", "2"))
    assert judged(config, tmp_path / "a", META) == {"copies": 2}
    assert judged(config, tmp_path / "a") == {}  # of a run that begins
