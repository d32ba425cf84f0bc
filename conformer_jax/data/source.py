"""Random access to examples: files of a manifest, a TFDS data set, some examples of another."""

import numpy as np

from conformer_jax.data.audio import BadAudio, DataError, plan_crop, read_audio, resample
from conformer_jax.data.content import of_groups, of_name
from conformer_jax.data.labels import Labels, labels_of


class Source:
    """Examples 0 to len - 1. Methods are called from several threads at once.

    Attributes:
      sample_rate: Hz of what `read` returns.
      label_names: names of the classes in order; () where there are no labels.
      at_once: whether `read_pcm` reads many examples faster than `read` one by one.
    """

    sample_rate: int
    label_names: tuple[str, ...] = ()
    at_once: bool = False

    def __len__(self) -> int:
        raise NotImplementedError

    def example_id(self, i) -> str:
        """A name for messages and predictions; the path as the manifest writes it."""
        raise NotImplementedError

    def content(self, i) -> int:
        """64 bits of what the clip is, the same for the same clip wherever it is listed."""
        return of_name(self.example_id(i))

    def whole(self, i) -> int:
        """`content` of the file that the clip is a part of; its own where it is none."""
        return self.content(i)

    def corpora(self) -> np.ndarray:
        """int [n]: of each example which corpus of a mixture it is from, 0 for the first."""
        return np.zeros(len(self), np.int64)

    def labels(self, i) -> tuple[int, ...]:
        """Indices into `label_names`; () where the example has none."""
        raise NotImplementedError

    # Of all examples at once, which sources of millions know faster than one by one.

    def ids(self) -> list[str]:
        """`example_id` of every example."""
        return [self.example_id(i) for i in range(len(self))]

    def contents(self) -> np.ndarray:
        """uint64 [n], `content` of every example."""
        return np.fromiter(map(self.content, range(len(self))), np.uint64, len(self))

    def wholes(self) -> np.ndarray:
        """uint64 [n], `whole` of every example."""
        return np.fromiter(map(self.whole, range(len(self))), np.uint64, len(self))

    def groups(self) -> np.ndarray:
        """uint64 [n]: equal for examples of one group or one recording, which belong together."""
        return self.wholes()

    def all_labels(self) -> Labels:
        """`labels` of every example."""
        return labels_of([self.labels(i) for i in range(len(self))])

    def read(self, i, num_samples, position) -> np.ndarray:
        """Returns float32 [n], mono, n <= num_samples; shorter examples are not padded.

        A longer example is cropped: `position` in [0, 1) runs from the first possible start to
        the last; None takes the middle. Raises BadAudio.
        """
        raise NotImplementedError

    def read_pcm(self, indices, num_samples, positions) -> list:
        """For each of `indices` what `read` returns as int16 [n], 32768 times as large, rounded and
        clipped; or the BadAudio that it raises. Only where `at_once`."""
        raise NotImplementedError


class ManifestSource(Source):
    """Audio files listed in a manifest."""

    def __init__(self, rows, sample_rate, label_names=()):
        """`rows`: list of manifest.Row. Without `label_names` the rows' labels are ignored."""
        self.sample_rate = sample_rate
        self.label_names = tuple(label_names)
        self._rows = rows
        self._index = {name: c for c, name in enumerate(self.label_names)}

    def __len__(self):
        return len(self._rows)

    def example_id(self, i):
        return self._rows[i].name

    def content(self, i):
        content = self._rows[i].content
        return super().content(i) if content is None else content

    def whole(self, i):
        whole = self._rows[i].whole
        return self.content(i) if whole is None else whole

    def groups(self):
        return np.array(of_groups(self._rows, self.wholes().tolist()), np.uint64)

    def labels(self, i):
        if not self._index:
            return ()
        return tuple(self._index[name] for name in self._rows[i].labels)

    def read(self, i, num_samples, position):
        row = self._rows[i]
        part = row.start, row.end
        return read_audio(row.path, self.sample_rate, num_samples, position, part=part)


class TfdsSource(Source):
    """A split of a prepared TFDS data set with an `audio` feature, read without TensorFlow.

    `audio` is float, or integer with 16-bit full scale (as tfds.features.Audio stores it), [n] or
    [n, channels]. Labels come from `label` or `labels`, a ClassLabel or a sequence of them.
    """

    def __init__(self, name, split, data_dir, sample_rate):
        """Raises DataError: not prepared for random access, or without such a feature or split."""
        builder = tfds_builder(name, data_dir)
        features = builder.info.features
        if "audio" not in features:
            raise DataError(f"config.data.tfds_name: {name} has no feature 'audio'")
        try:
            self._examples = builder.as_data_source(split=split)
        except Exception as e:
            raise DataError(_tfds_problem(name, data_dir, e)) from e
        self.sample_rate = sample_rate
        self._rate = getattr(features["audio"], "sample_rate", None) or sample_rate
        self._prefix = f"{name}/{split}"
        self._parts = _tfds_parts(split, builder.info.splits, len(self._examples))
        self._name = name
        self._key = next((key for key in ("label", "labels") if key in features), None)
        feature = features[self._key] if self._key else None
        self.multi_label = hasattr(feature, "feature")  # a sequence
        names = getattr(feature.feature if self.multi_label else feature, "names", None)
        self.label_names = tuple(names or ())
        self._labels = {}  # filled as examples are read: a label cannot be read on its own

    def __len__(self):
        return len(self._examples)

    def example_id(self, i):
        return f"{self._prefix}/{i}"

    def content(self, i):
        for split, start, count in self._parts:
            if i < count:
                return of_name(f"{self._name}/{split}/{start + i}")
            i -= count
        raise IndexError

    def labels(self, i):
        if not self.label_names:
            return ()
        if i not in self._labels:
            self._remember(i, self._examples[i])
        return self._labels[i]

    def read(self, i, num_samples, position):
        example = self._examples[i]
        if self.label_names:
            self._remember(i, example)
        audio = np.asarray(example["audio"])
        if audio.size == 0:
            raise BadAudio("no samples")
        first, count, offset, keep = plan_crop(
            len(audio), self._rate, self.sample_rate, num_samples, position
        )
        audio = audio[first : first + count]
        if np.issubdtype(audio.dtype, np.integer):
            if np.abs(audio.astype(np.int64)).max() > 2**15:
                raise BadAudio("integer samples of more than 16 bits: scale unknown")
            audio = audio / np.float32(2**15)
        audio = audio.astype(np.float32)
        audio = audio.mean(axis=1) if audio.ndim > 1 else audio
        return resample(audio, self._rate, self.sample_rate)[offset : offset + keep]

    def _remember(self, i, example):
        classes = np.atleast_1d(example[self._key])
        self._labels[i] = tuple(int(c) for c in classes if c >= 0)  # -1: TFDS for 'unknown'


class Subset(Source):
    """Some examples of a source, perhaps with its labels in another order or left out."""

    def __init__(self, source, indices=None, label_names=None):
        """Wraps `source`.

        Args:
          source: any Source.
          indices: the examples to keep, in their new order; None for all.
          label_names: the new order, which must contain all of the source's; () for no labels;
            None for the source's own.
        """
        self._source = source
        self._indices = np.arange(len(source)) if indices is None else np.asarray(indices)
        self.sample_rate = source.sample_rate
        self.label_names = tuple(source.label_names if label_names is None else label_names)
        self.at_once = source.at_once
        self._new = None
        if self.label_names:
            self._new = [self.label_names.index(name) for name in source.label_names]

    def __len__(self):
        return len(self._indices)

    def example_id(self, i):
        return self._source.example_id(int(self._indices[i]))

    def corpora(self):
        return self._source.corpora()[self._indices]

    def content(self, i):
        return self._source.content(int(self._indices[i]))

    def whole(self, i):
        return self._source.whole(int(self._indices[i]))

    def labels(self, i):
        if self._new is None:
            return ()
        return tuple(self._new[c] for c in self._source.labels(int(self._indices[i])))

    def ids(self):
        if self._few:
            return super().ids()
        ids = self._source.ids()
        return [ids[i] for i in self._indices]

    def contents(self):
        return super().contents() if self._few else self._source.contents()[self._indices]

    def wholes(self):
        return super().wholes() if self._few else self._source.wholes()[self._indices]

    def groups(self):
        return self._source.groups()[self._indices]

    def all_labels(self):
        if self._few or self._new is None:
            return super().all_labels()
        found = self._source.all_labels().take(self._indices)
        return found._replace(numbers=np.array(self._new, np.int32)[found.numbers])

    @property
    def _few(self):
        """Whether it is less to ask for each than for all of the source."""
        return 4 * len(self._indices) < len(self._source)

    def read(self, i, num_samples, position):
        return self._source.read(int(self._indices[i]), num_samples, position)

    def read_pcm(self, indices, num_samples, positions):
        return self._source.read_pcm(self._indices[np.asarray(indices)], num_samples, positions)


def tfds_builder(name, data_dir):
    # Here: it takes a second to import, and only TFDS data sets need it.
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=data_dir or None)
    except Exception as e:  # TFDS raises many types, some of them private
        raise DataError(_tfds_problem(name, data_dir, e)) from e


def _tfds_parts(split, splits, length):
    """[(split, first example, examples)] of what 'train[:80%]+test' takes of the whole splits, by
    which its clips are known in another slice; where TFDS does not say, as if it were a whole."""
    import tensorflow_datasets as tfds

    try:
        found = []
        for part in tfds.core.ReadInstruction.from_spec(split).to_absolute(splits):
            whole = splits[part.splitname].num_examples
            start, stop = part.from_ or 0, whole if part.to is None else part.to
            found.append((part.splitname, start, stop - start))
    except Exception:  # of many kinds, some of them private
        found = []
    return found if sum(count for *_, count in found) == length else [(split, 0, length)]


def _tfds_problem(name, data_dir, error) -> str:
    reason = str(error).strip().split("\n")[0]
    return (
        f"config.data.tfds_name: cannot open {name} in {data_dir or 'the default data_dir'}: "
        f"{reason} (prepare it with file_format='array_record')"
    )
