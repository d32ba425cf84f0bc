"""The report: what stands on the page, and how it behaves in a browser."""

import base64
import html.parser
import io
import itertools
import json
import re
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest
import report_workdirs as written
import soundfile

from configs import finetune, pretrain
from conformer_jax import report
from conformer_jax.data.synthetic import CORPUS_SEED, render_clip
from conformer_jax.errors import UserError
from conformer_jax.reporting import charts, classes, media, mistakes, page, runs, training
from conformer_jax.steps import metrics
from conformer_jax.training import diagnostics


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return written.write_all(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def file(folders, tmp_path_factory):
    """The page of all folders, written by the command."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    command = [sys.executable, "-m", "conformer_jax.report", *map(str, folders)]
    done = subprocess.run(
        [*command, f"--output={path}", "--mistakes=5"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"Wrote {path}: 5 run(s), 2 study folder(s)" in done.stdout
    return path


class Elements(html.parser.HTMLParser):
    """[(tag, attributes, text directly inside)] in order, from the page's text."""

    def __init__(self, text):
        super().__init__()
        self.all, self._open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.all.append((tag, dict(attrs), []))
        if tag not in ("br", "img", "link", "meta"):
            self._open.append(self.all[-1])

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag, "elements are not nested"

    def handle_data(self, data):
        if self._open:
            self._open[-1][2].append(data)

    def of(self, tag, class_=None):
        return [
            (a, "".join(text))
            for t, a, text in self.all
            if t == tag and (class_ is None or class_ in (a.get("class") or "").split())
        ]


@pytest.fixture(scope="module")
def text(file):
    return file.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def elements(text):
    return Elements(text)


def test_the_page_is_one_file(elements):
    for _, attributes, _ in elements.all:
        for name in ("src", "href", "data", "poster", "srcset"):
            value = attributes.get(name) or ""
            assert value == "" or value.startswith(("data:", "#")), value[:80]
    policy = [a["content"] for a, _ in elements.of("meta") if "http-equiv" in a]
    assert "default-src 'none'" in policy[0]


def test_every_section_has_a_heading_and_is_in_the_contents(elements):
    headings = [(t, a.get("id"), "".join(x)) for t, a, x in elements.all if re.match("h[1-6]$", t)]
    levels = [int(tag[1]) for tag, _, _ in headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    linked = {a["href"][1:]: name for a, name in elements.of("a") if a["href"].startswith("#s")}
    assert linked == {
        anchor: name for _, anchor, name in headings if anchor and anchor != "contents"
    }
    names = [name for _, _, name in headings]
    for name in (
        *("Pre-training runs compared", "Runs with labels compared"),
        *("pretrain", "linear", "finetune", "finetune, from scratch", "many"),
        *("Curves", "Use of the codebook", "Classes", "Confusions", "Worst mistakes"),
        *("Files that could not be read", "study: label efficiency", "cv: cross-validation"),
        "Confusions, all folds together",
    ):
        assert name in names
    assert names.count("Use of the codebook") == 1  # the linear target has no codebook


def test_the_worst_pairs_of_160_classes_are_named():
    names, counts = [f"kind {c}" for c in range(160)], 5 * np.eye(160, dtype=np.int64)
    counts[7, 9], counts[150, 2] = 3, 2
    drawn = Elements(str(classes.confusion_matrix(names, counts, several=False)))
    assert [text for _, text in drawn.of("th")][-2:] == ["kind 7", "kind 150"]
    cells = ["kind 9", "3", "38\u00a0%", "kind 2", "2", "29\u00a0%"]
    assert [text for _, text in drawn.of("td")] == cells


@pytest.mark.parametrize("size", [1e-7, 2.5e-4, 0.12345, 1.0, 4321.0, 1e5, 3.3e9])
@pytest.mark.parametrize("percent", [False, True])
def test_no_label_of_an_axis_is_clipped(size, percent):
    points = (
        ((0.1, -size), (0.5, 0.3 * size), (1.0, size))
        if percent
        else ((9, size), (99999, 1.7 * size))
    )
    chart = charts.Chart("t", "u", "a", (charts.Series("s", points),), percent=percent)
    found = Elements(str(charts.line_chart(chart)))
    drawn = next(a["viewbox"] for a, _ in found.of("svg") if a.get("class") == "chart")
    left, _, width, _ = map(float, drawn.split())
    for attributes, text in found.of("text"):
        x, wide, anchor = float(attributes["x"]), 6.2 * len(text), attributes.get("text-anchor")
        start = x - {"end": wide, "middle": wide / 2}.get(anchor, 0)
        assert left <= start, text
        assert start + wide <= left + width + 1, text


def test_what_flatters_the_figures_is_said(elements):
    said = [text for _, text in elements.of("dd") + elements.of("p")]
    assert "3 of 11: these figures flatter it" in said
    assert "2: these figures flatter the model" in said
    assert "The encoder has heard 4 of the 6 clips: these figures flatter it." in said
    assert any(
        text.startswith("1 held-out clips are copies of what is trained on") for text in said
    )


def test_what_comes_from_data_is_escaped(text, elements):
    assert written.EVIL not in text
    assert "<script>alert" not in text
    assert any(f"gone/{written.EVIL}.wav" in said for _, said in elements.of("code"))
    assert any(written.EVIL in said for _, said in elements.of("p"))  # the study's caption
    cells = [said for _, said in elements.of("th") + elements.of("td")]
    assert written.EVIL in cells
    assert f"<b>{written.EVIL[:8]}" in cells  # of bad_audio.csv
    heat = [json.loads(said) for a, said in elements.of("script") if a.get("type")]
    assert heat[0]["names"][-1] == written.EVIL
    assert len(elements.of("script")) == 2  # that and the page's own


def test_plots_and_sounds_are_named(elements):
    plots = elements.of("svg", "chart")
    # 7 curves a pre-training, 6 a fine-tuning, 4 of the codebook, 3 and 1 compared, 2 of labels
    assert len(plots) == 2 * 7 + 2 * 6 + 4 + 3 + 1 + 2
    for attributes, _ in plots:
        assert attributes["role"] == "img"
        assert re.search(
            r"(training|held out|pre-trained|pretrain|finetune)\S*:", attributes["aria-label"]
        )
    for attributes, _ in elements.of("audio") + elements.of("div", "heat"):
        assert attributes["aria-label"]
    pictures = [a["alt"] for a, _ in elements.of("img") if a["alt"]]
    assert "Log-mel spectrogram of synthetic/eval/000000, 1.0 s" in pictures
    assert len(elements.of("figcaption")) == len(plots)


def _chart(folder, title):
    run = runs.read_run("a run", folder)
    drawn = Elements(training.curves(run)).all
    at = next(i for i, (_, _, said) in enumerate(drawn) if said[:1] == [title])
    figure = [*drawn[at:]]
    end = next((i for i, (tag, _, _) in enumerate(figure) if tag == "figcaption"), len(figure))
    return figure[:end]


def test_a_curve_is_drawn_where_its_values_are(folders):
    figure = _chart(folders[0], "Contrastive loss ")
    svg = next(a for tag, a, _ in figure if tag == "svg" and "chart" in a["class"])
    left, top, width, height = map(float, svg["data-box"].split())
    low, high = map(float, svg["data-y"].split())
    line = next(a for _, a, _ in figure if a.get("data-name") == "training")
    records = runs.read_run("a run", folders[0]).series("contrastive_loss", "train")
    real = [[step, value] for step, value in records if value is not None]
    np.testing.assert_allclose(json.loads(line["data-points"]), real, rtol=1e-3)
    assert len(real) == 11
    path = next(a["d"] for _, a, _ in figure if a.get("class") == "line" and a["d"].count("M") == 2)
    drawn = np.array([p.split() for p in re.findall(r"[\d.]+ [\d.]+", path)], float)
    expected = [
        (left + (x - 1) / 11 * width, top + height * (high - y) / (high - low)) for x, y in real
    ]
    np.testing.assert_allclose(drawn, expected, atol=0.06)


def test_the_healthy_range_is_shaded_and_chance_is_marked(folders):
    run = runs.read_run("a run", folders[0])
    guess = diagnostics.guess_of(run.config)
    healthy = diagnostics.healthy_ranges(guess, run.last("eval"))["contrastive_loss"]
    figure = _chart(folders[0], "Contrastive loss ")
    svg = next(a for tag, a, _ in figure if tag == "svg" and "chart" in a["class"])
    _, top, _, height = map(float, svg["data-box"].split())
    low, high = map(float, svg["data-y"].split())
    band = next(a for tag, a, _ in figure if tag == "rect")
    assert float(band["y"]) == pytest.approx(
        top + height * (high - healthy.high) / (high - low), abs=0.06
    )
    assert f"healthy: 0 to {healthy.high:.3g}" in svg["aria-label"]
    assert f"chance: {np.log(11):.3g}" in svg["aria-label"]


def test_the_verdict_is_that_of_the_closing_summary(folders):
    run = runs.read_run("a run", folders[0])
    assert "Looks healthy" in training.verdict(run)
    for record in run.records:
        record["target_deviation"] = 0.01
    assert "the targets have collapsed" in training.verdict(run)


def test_clip_contrast_has_its_verdict_and_its_ranges(tmp_path):
    config = pretrain.get_config("tiny_clip")
    figures = {"clip_loss": 2.4, "clip_accuracy": 0.5, "clip_chance": 0.01, "retrieval_at_1": 0.4}
    figures |= {"clip_similarity_positive": 0.7, "clip_similarity_negative": 0.0}
    figures |= {"uniformity": -3.0, "embedding_deviation": 0.9, "effective_rank": 40.0}
    records = [
        {"step": step, "split": split, **figures, "clips_judged": 171.0, "finite": 1.0}
        for step in (1, 2)
        for split in ("train", "eval")
    ]
    run = runs.Run("x", tmp_path, config, records, None, [], [])
    assert "Looks healthy" in training.verdict(run)
    curves = str(training.curves(run))
    assert "healthy: 0.3 to 1." in curves
    assert "healthy: 15 to " in curves
    run.records[-1].update(clip_similarity_negative=None, clip_loss=None)
    assert "clip_loss is nan" in training.verdict(run)
    assert "nan to" not in training.verdict(run)
    assert "healthy: 0.3 to 1." in str(training.curves(run))
    run.records[-1].update(effective_rank=2.0)
    assert "the embeddings use few dimensions" in training.verdict(run)


def test_a_long_curve_keeps_its_extremes():
    values = np.sin(np.arange(20_000))
    values[7777], values[15_001] = 5.0, -5.0
    kept = charts.thin([(i, float(v)) for i, v in enumerate(values)], most=500)
    assert len(kept) <= 502
    assert {(7777, 5.0), (15_001, -5.0)} <= set(kept)
    assert kept == sorted(kept)
    assert kept[-1][0] == 19_999


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.02, 0.081, [0.02, 0.04, 0.06, 0.08]),
        (1, 1500, [500, 1000, 1500]),
        (-0.3, 0.35, [-0.2, 0, 0.2]),
        (0, 7e-4, [0, 2e-4, 4e-4, 6e-4]),
    ],
)
def test_ticks_are_round_numbers(low, high, ticks):
    assert charts.nice_ticks(low, high, most=5) == pytest.approx(ticks)


def test_confusions_are_counted_by_the_highest_score():
    logits = np.array([[2, 1, 0], [2, 1, 0], [0, 1, 2], [0, 3, 1]], np.float32)
    labels = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1]], np.float32)
    predicted = runs.Predictions(list("abcd"), logits, labels, list("xyz"), 1)
    # The last clip has two labels and neither is the highest score: one count for each.
    assert classes.confusions(predicted).tolist() == [[1, 1, 0], [1, 0, 0], [0, 1, 1]]


def test_classes_show_their_average_precision(folders, elements):
    predicted = runs.load_predictions(folders[2] / "predictions.npz")
    scores = metrics.average_precision(predicted.logits, predicted.labels)
    assert np.isnan(scores[-1])
    drawn = Elements(classes.average_precisions(predicted))
    shown = [float(said) for _, said in drawn.of("b")]
    np.testing.assert_allclose(shown, np.sort(scores[~np.isnan(scores)])[::-1], atol=6e-4)
    assert any(
        "Without a held-out clip" in said and written.EVIL in said for _, said in drawn.of("p")
    )
    captions = [said for _, said in elements.of("caption")]
    assert "The 12 worst classes" in captions  # of 60


def test_the_worst_mistakes_come_first(folders):
    run = runs.read_run("a run", folders[2])
    found = mistakes.worst(run, 3)
    assert [m.id for m in found] == [f"synthetic/eval/{i:06d}" for i in range(3)]
    heard, chance = found[0].said[0]
    assert chance == pytest.approx(np.exp(9) / (np.exp(9) + 20), rel=1e-4)
    assert heard != found[0].truth[0][0]
    assert len(mistakes.worst(run, 100)) == 5  # the clips that are right are none


def test_with_several_labels_the_largest_loss_is_worst():
    logits = np.array([[4, -4, 4], [4, 4, -4], [-9, 1, -4]], np.float32)
    labels = np.array([[1, 0, 1], [1, 0, 0], [1, 0, 0]], np.float32)
    run = runs.Run(
        "", None, None, [], runs.Predictions(list("abc"), logits, labels, list("xyz"), 1), [], []
    )
    found = mistakes.worst(run, 5)
    assert [m.id for m in found] == ["c"]  # 'b' has its label first, and every label above 0.5
    assert found[0].said == [("y", pytest.approx(1 / (1 + np.exp(-1))))]
    assert found[0].truth[0][0] == "x"


def test_a_mistake_is_heard_as_evaluation_hears_it(folders, elements):
    sounds = {a["aria-label"]: a["src"] for a, _ in elements.of("audio")}
    kind, _, content = sounds["Sound of synthetic/eval/000002"].partition(",")
    assert kind == "data:audio/flac;base64"
    heard, rate = soundfile.read(io.BytesIO(base64.b64decode(content)), dtype="float32")
    config = runs.read_run("a run", folders[2]).config
    audio, _ = render_clip(
        CORPUS_SEED,
        "eval",
        2,
        max_classes=1,
        snr_db=tuple(config.synthetic.snr_db),
        sample_rate=rate,
        num_samples=16_000,
    )
    np.testing.assert_array_equal(heard, audio)


def test_sounds_that_cannot_be_read_are_listed_with_the_reason(text, elements):
    said = [said for _, said in elements.of("p")]
    assert "Cannot be played: the corpus no longer holds it." in said
    assert any(
        s.startswith("None of them can be played: the corpus cannot be opened") for s in said
    )
    assert "nowhere.csv" in text


def test_a_spectrogram_has_its_tone_where_it_sounds():
    config = pretrain.get_config("smoke")
    times = np.arange(16_000) / 16_000
    clips = [np.sin(2 * np.pi * hz * times).astype(np.float32) for hz in (200, 6000)]
    for picture, rows in zip(
        media.spectrograms(config.features, [clips[0], clips[1][:8000]]),
        (slice(50, 64), slice(0, 14)),
        strict=True,
    ):
        pixels = matplotlib.image.imread(io.BytesIO(base64.b64decode(picture.partition(",")[2])))
        assert pixels.shape[0] == 64
        loudest = pixels[..., :3].sum(2).mean(1).argmax()
        assert loudest in range(64)[rows]
    assert pixels.shape[1] == 51  # of half a second


def test_label_efficiency_shows_both_lines(elements):
    rows = [said for _, said in elements.of("td")]
    for mean in (0.54 + 0.02, 0.34 + 0.02, 0.9 + 0.02):
        assert f"{mean:.3f} ± 0.028" in rows
    lines = {
        a["data-name"]: json.loads(a["data-points"])
        for _, a, _ in elements.all
        if a.get("data-name") in ("pre-trained", "from scratch")
    }
    assert [x for x, _ in lines["pre-trained"]] == list(written.SHARES)
    assert len(elements.of("path", "spread")) == 4


def test_the_arms_of_a_study_are_compared(tmp_path):
    records = [
        {"arm": arm, "share": 1.0, "init": "pretrained", "seed": seed, "accuracy": a, "mAP": a / 2}
        for arm, figures in (("linear", (0.4, 0.6)), ("gumbel", (0.3,)))
        for seed, a in enumerate(figures)
    ]
    (tmp_path / "study.json").write_text(json.dumps({"records": records, "caption": "targets"}))
    report.write([tmp_path], tmp_path / "report.html", num_mistakes=0)
    said = re.sub(r"<[^>]+>", "|", (tmp_path / "report.html").read_text())
    assert "arms compared" in said
    for figure in ("0.500 ± 0.141", "0.250 ± 0.071", "0.300", "0.150"):
        assert figure in said


def test_a_study_without_arms_is_refused(tmp_path):
    record = {"share": 1.0, "init": "pretrained", "seed": 0, "accuracy": 0.5, "mAP": 0.5}
    (tmp_path / "study.json").write_text(json.dumps({"records": [record]}))
    with pytest.raises(UserError, match=r"study\.json is not as expected \(KeyError: 'arm'\)"):
        runs.read_all([tmp_path])


def test_folds_are_a_table_and_their_confusions_are_pooled(folders, elements):
    cells = [said for _, said in elements.of("td")]
    assert {"0.667", "0.333", "0.100 to 0.900", "not measured"} <= set(cells)
    (study,) = runs.read_all([folders[-1]])[1]
    pooled = sum(classes.confusions(run.predictions) for run in study.fold_runs)
    assert pooled.tolist() == [[2, 2], [1, 1]]
    titles = [a.get("title") for a, _ in elements.of("td")]
    assert "rain, taken for wind: 2 of 4" in titles


def test_a_run_of_an_earlier_version_is_shown(tmp_path):
    """Whose config lacks what came later."""
    folder = written.write_finetuning(tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    del config["data"]["mixture"], config["views"]
    (folder / "config.json").write_text(json.dumps(config))
    shown = page.render(*runs.read_all([folder]), num_mistakes=1)
    assert ">Sound<" in shown
    assert "<audio" in shown


def test_configs_that_differ_are_told(elements):
    fields = [said for _, said in elements.of("code")]
    assert "target" in fields


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("predictions.npz", "there is no predictions.npz"),
        ("config.json", "there is no config.json"),
        ("metrics.jsonl", "there is no metrics.jsonl"),
    ],
)
def test_what_is_missing_is_left_out_and_said(tmp_path, missing, sentence):
    folder = written.write_finetuning(tmp_path / "run")
    (folder / missing).unlink()
    shown = page.render(*runs.read_all([folder]), num_mistakes=1)
    assert sentence in shown
    assert (">Curves<" in shown) == (missing != "metrics.jsonl")
    assert (">Classes<" in shown) == (missing != "predictions.npz")
    assert ("<audio" in shown) == (missing == "metrics.jsonl")


def test_predictions_that_cannot_be_used_are_left_out_with_the_reason(tmp_path):
    folder = written.write_finetuning(tmp_path / "run")
    (folder / "predictions.npz").write_bytes(b"PK no archive")
    assert "predictions.npz is broken" in runs.read_run("a run", folder).left_out[0]
    written.write_predictions(folder, ["a"], [[np.nan, 1]], [[0, 1]], ["x", "y"])
    assert "not finite" in runs.read_run("a run", folder).left_out[0]
    written.write_predictions(folder, ["a", "b"], [[0, 1]], [[0, 1]], ["x", "y"])
    assert "is broken" in runs.read_run("a run", folder).left_out[0]


def test_a_folder_with_nothing_in_it_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds nothing to report on"):
        runs.read_all([tmp_path])
    with pytest.raises(UserError, match="is no folder"):
        runs.read_all([tmp_path / "not there"])
    (tmp_path / "label_efficiency.json").write_text('{"records": [{"share": 0.1}]}')
    with pytest.raises(UserError, match=r"label_efficiency\.json is not as expected"):
        runs.read_all([tmp_path])


def test_one_unusable_folder_does_not_stop_the_report(tmp_path):
    good, bad = written.write_folds(tmp_path / "cv"), tmp_path / "bad & worse"
    bad.mkdir()
    (bad / "folds.json").write_text("{")
    said = report.write([good, bad, tmp_path / "gone"], tmp_path / "report.html").splitlines()
    assert said[0].startswith(f"Wrote {tmp_path}")
    assert said[1].startswith(f"left out: {bad}/folds.json is not as expected")
    assert said[2].startswith(f"left out: {tmp_path}/gone is no folder")
    shown = (tmp_path / "report.html").read_text()
    assert "Folders that are left out" in shown
    assert "bad &amp; worse/folds.json is not as expected" in shown
    assert "Confusions, all folds together" in shown


def test_folds_are_reported_while_others_are_missing(tmp_path):
    folder = written.write_folds(tmp_path / "cv")
    held_out = [
        {"step": step, "split": "validation", "accuracy": step / 9, "mAP": 0.5} for step in (1, 2)
    ]
    written.write_run(folder / "fold_3", finetune.get_config("smoke"), held_out)
    written.write_run(folder / "fold_old", finetune.get_config("smoke"), held_out)
    file = folder / "folds.json"
    found = json.loads(file.read_text())
    file.write_text(json.dumps({**found, "missing": ["3", "4"]}))
    shown = page.render(*runs.read_all([folder]), num_mistakes=0)
    assert "Not finished: 3, 4 missing" in shown
    assert "(fold 3 begun)" in shown
    assert "Accuracy, validation" in shown  # a curve
    assert "Confusions, 2 folds together" in shown
    assert "fold old" not in shown
    file.unlink()  # as in the first fold
    shown = page.render(*runs.read_all([folder]), num_mistakes=0)
    assert "Not finished: some folds missing" in shown
    assert "Accuracy, validation" in shown


def test_the_users_mistakes_end_in_one_line(tmp_path, capsys, folders):
    with pytest.raises(SystemExit):
        report.main(["report"])
    assert capsys.readouterr().err.startswith("error: name a run's folder")
    with pytest.raises(UserError, match="cannot write --output"):
        report.write([folders[-2]], tmp_path / "no such folder" / "report.html")


def test_runs_of_one_name_are_told_apart(tmp_path):
    ones = [written.write_pretraining(tmp_path / parent / "pretrain") for parent in "ab"]
    assert [run.name for run in runs.read_all(ones)[0]] == ["a/pretrain", "b/pretrain"]
