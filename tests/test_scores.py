"""The command that prints the figures of a file of predictions."""

import numpy as np
import pytest

from conformer_jax import scores
from conformer_jax.evaluation import predictions
from conformer_jax.steps import metrics

NAMES = ("dog", "Türe", "a long name", "never")


def example(clips=40, seed=0):
    """The arguments of `save` after the path; the last class has no positives."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((clips, 4)) < [0.4, 0.3, 0.2, 0]).astype(np.float32)
    logits = (labels + rng.normal(size=labels.shape)).astype(np.float32)
    return [f"a/{i}.wav" for i in range(clips)], logits, labels, NAMES, 700


def test_the_command_prints_every_figure_with_its_interval(tmp_path, capsys):
    path, (_, logits, labels, _, _) = tmp_path / "p.npz", example()
    predictions.save(path, *example())
    assert scores.main([str(path), "--resamples=50", "--per_class"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "step 700, 40 clips, 4 classes, 1 of them without a clip"
    shown = {line.split()[0]: line.split() for line in said if line}
    for name, value in metrics.figures(logits, labels).items():
        _, point, low, _, high = shown[name]
        assert float(point) == pytest.approx(value, abs=6e-4)
        assert float(low) <= float(point) <= float(high)
        assert float(low) < float(high)
    table = said[said.index("") + 1 :]
    assert table[0].split() == ["class", "AP", "positives"]
    each = metrics.average_precision(logits, labels)
    order = [*np.argsort(each[:3]), 3]  # worst first, the one without a clip last
    assert [line.rsplit(None, 2)[0] for line in table[1:]] == [NAMES[c] for c in order]
    assert [int(line.split()[-1]) for line in table[1:]] == [labels[:, c].sum() for c in order]
    assert scores.main([str(path), "--resamples=50"]) == 0
    assert capsys.readouterr().out.splitlines() == said[: said.index("")]


def test_a_mistake_at_the_command_is_one_line(tmp_path, capsys):
    predictions.save(tmp_path / "p.npz", *example())
    for arguments in ([tmp_path / "none.npz"], [tmp_path / "p.npz", "--resamples=0"]):
        assert scores.main(list(map(str, arguments))) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("error: ")
        assert printed.err.count("\n") == 1


def test_the_classes_as_a_table(tmp_path, capsys):
    path, table = tmp_path / "p.npz", tmp_path / "classes.csv"
    predictions.save(path, *example())
    assert scores.main([str(path), "--resamples=5", f"--csv={table}"]) == 0
    head, *rows = [line.split(",") for line in table.read_text().splitlines()]
    assert head == ["class", "average_precision", "positives"]
    assert [row[0] for row in rows] == list(NAMES)
    each = metrics.average_precision(*example()[1:3])
    assert [float(row[1]) for row in rows[:3]] == pytest.approx(each[:3], abs=1e-6)
    assert rows[3][1:] == ["", "0"]
    assert scores.main([str(path), "--resamples=5", f"--csv={tmp_path / 'no' / 'x.csv'}"]) == 1
    assert "cannot write --csv=" in capsys.readouterr().err
