"""What TFDS needs beside the shards to open them without any code of ours."""

import numpy as np


def write(folder, name, version, corpus, classes, options, shards) -> None:
    """Writes dataset_info.json, features.json and the class names.

    Args:
      folder: where the shards lie.
      name, version: of the data set.
      corpus: corpus.Corpus; classes: names in order, () for none; options: encoding.Options.
      shards: by split, (file name, number of records).
    """
    # Here: it takes a second to import.
    import tensorflow_datasets as tfds

    template = tfds.core.ShardedFileTemplate(
        data_dir=folder,
        dataset_name=name,
        filetype_suffix="array_record",
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    )
    split_infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[count for _, count in parts],
            num_bytes=sum((folder / file).stat().st_size for file, _ in parts),
            filename_template=template.replace(split=split),
        )
        for split, parts in shards.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=_features(tfds, classes, options.encoding),
        split_infos=split_infos,
        version=version,
        filename_template=template,
        check_data=False,  # it reads by tf.data, which has no reader of ArrayRecord
        description=f"{corpus.about} {corpus.protocol}. Licence: {corpus.licence}.",
        license=corpus.licence,
        homepage="",
    )


def _features(tfds, classes, encoding):
    audio = tfds.features.Scalar(np.object_)
    if encoding == "pcm16":
        audio = tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding="bytes")
    features = {
        "audio": audio,
        "sample_rate": tfds.features.Scalar(np.int64),
        "num_samples": tfds.features.Scalar(np.int64),
        "id": tfds.features.Text(),
        "source": tfds.features.Text(),
        "fold": tfds.features.Text(),
        "start_s": tfds.features.Scalar(np.float32),
    }
    if classes:
        label = tfds.features.ClassLabel(names=list(classes))
        features["labels"] = tfds.features.Sequence(label)
    return tfds.features.FeaturesDict(features)
