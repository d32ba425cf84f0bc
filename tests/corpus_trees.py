"""Small trees in the layouts that corpora are published in, with files broken and missing."""

import io

import numpy as np
import soundfile

from conformer_jax.corpora import audioset

RATE = 16000
MIDS = list(audioset.classes())
NAMES = list(audioset.classes().values())


def sound(seed, file_format="WAV"):
    audio = 0.1 * np.random.default_rng(seed).standard_normal(RATE // 10)
    file = io.BytesIO()
    soundfile.write(file, audio, RATE, format=file_format)
    return file.getvalue()


def fill(folder, files):
    """Writes files; of None nothing: it is missing."""
    for i, (name, content) in enumerate(files.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content == "sound":
            kind = {".mp3": "MP3", ".flac": "FLAC"}.get(path.suffix, "WAV")
            content = sound(i, kind)
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())


# For each corpus: the tree; (split, labels, fold, source) of what is prepared, by id; what is left
# out, with how its reason begins.
TREES = {
    "esc50": (
        {
            "meta/esc50.csv": "filename,fold,target,category\n1-100-A-0.wav,1,0,dog\n"
            "2-200-B-49.wav,2,49,hand_saw\n3-300-A-1.wav,3,1,rooster\n4-400-A-2.wav,4,2,pig\n",
            "audio/1-100-A-0.wav": "sound",
            "audio/2-200-B-49.wav": "sound",
            "audio/3-300-A-1.wav": b"broken",
        },
        {
            "1-100-A-0": ("train", ["dog"], "1", "freesound:100"),
            "2-200-B-49": ("train", ["hand_saw"], "2", "freesound:200"),
        },
        {"3-300-A-1": "not audio", "4-400-A-2": "missing"},
    ),
    "esc10": (
        {"a/1-100-A-0.wav": "sound", "a/2-200-B-49.wav": "sound"},
        {"1-100-A-0": ("train", ["dog"], "1", "freesound:100")},
        {},
    ),
    "speech_commands": (
        {
            "validation_list.txt": "cat/b_nohash_0.wav\n",
            "testing_list.txt": "cat/c_nohash_0.wav\ncat/d_nohash_0.wav\n",
            "cat/a_nohash_0.wav": "sound",
            "cat/b_nohash_0.wav": "sound",
            "cat/c_nohash_0.wav": b"",
            "_background_noise_/white.wav": "sound",
        },
        {
            "cat/a_nohash_0.wav": ("train", ["cat"], "", "speaker:a"),
            "cat/b_nohash_0.wav": ("validation", ["cat"], "", "speaker:b"),
        },
        {"cat/c_nohash_0.wav": "empty file", "cat/d_nohash_0.wav": "missing"},
    ),
    "urbansound8k": (
        {
            "metadata/UrbanSound8K.csv": "slice_file_name,fsID,start,end,salience,fold,classID,"
            "class\n7-3-0-0.wav,7,0,1,1,5,3,dog_bark\n8-1-0-0.wav,8,0,1,1,10,1,car_horn\n"
            "9-1-0-0.wav,9,0,1,1,10,1,car_horn\n",
            "audio/fold5/7-3-0-0.wav": "sound",
            "audio/fold10/8-1-0-0.wav": b"text named .wav",
        },
        {"7-3-0-0": ("train", ["dog_bark"], "5", "freesound:7")},
        {"8-1-0-0": "not audio", "9-1-0-0": "missing"},
    ),
    "fsd50k": (
        {
            "FSD50K.ground_truth/vocabulary.csv": "0,Bark,/m/1\n1,Dog,/m/2\n",
            "FSD50K.ground_truth/dev.csv": 'fname,labels,mids,split\n64,"Bark,Dog","/m/1",train\n'
            "65,Dog,/m/2,val\n66,Dog,/m/2,train\n",
            "FSD50K.ground_truth/eval.csv": "fname,labels,mids\n70,Dog,/m/2\n",
            "FSD50K.dev_audio/64.wav": "sound",
            "FSD50K.dev_audio/65.wav": "sound",
            "FSD50K.dev_audio/66.wav": b"?",
        },
        {
            "64": ("train", ["Bark", "Dog"], "", "freesound:64"),
            "65": ("validation", ["Dog"], "", "freesound:65"),
        },
        {"66": "not audio", "70": "missing"},
    ),
    "fsdkaggle2019": (
        {
            "FSDKaggle2019.meta/vocabulary.csv": "0,Accordion\n1,Bark\n",
            "FSDKaggle2019.meta/train_curated_post_competition.csv": "fname,labels\na.wav,Bark\n",
            "FSDKaggle2019.meta/train_noisy_post_competition.csv": "fname,labels\nb.wav,Bark\n",
            "FSDKaggle2019.meta/test_post_competition.csv": "fname,labels,usage\n"
            'c.wav,"Accordion,Bark",Public\n',
            "FSDKaggle2019.audio_train_curated/a.wav": "sound",
            "FSDKaggle2019.audio_train_noisy/b.wav": b"?",
            "FSDKaggle2019.audio_test/x.wav": "sound",
        },
        {"a": ("train_curated", ["Bark"], "", "freesound:a")},
        {"b": "not audio", "c": "missing"},
    ),
    "audioset": (
        {
            "balanced_train_segments.csv": "# Segments csv\n# num_ytids=2\n# YTID, start_seconds, "
            f'end_seconds, positive_labels\n--aaaaaaaaa, 30.000, 40.000, "{MIDS[0]},{MIDS[2]}"\n'
            f'bbbbbbbbbbb, 0.000, 10.000, "{MIDS[1]}"\n',
            "eval_segments.csv": f'# a\n# b\n# c\nccccccccccc, 0.000, 10.000, "{MIDS[526]}"\n'
            f'ddddddddddd, 20.000, 30.000, "{MIDS[5]}"\n',
            "balanced/Y--aaaaaaaaa.wav": "sound",
            "balanced/Ybbbbbbbbbbb.wav": b"RIFF....WAVE",
            "eval/ddddddddddd_20.flac": "sound",
        },
        {
            "--aaaaaaaaa": ("train_balanced", [NAMES[0], NAMES[2]], "", "--aaaaaaaaa"),
            "ddddddddddd": ("eval", [NAMES[5]], "", "ddddddddddd"),
        },
        {"bbbbbbbbbbb": "", "ccccccccccc": "missing"},
    ),
    "magnatagatune": (
        {
            "annotations_final.csv": "clip_id\tguitar\tzzz\tchoral\tmp3_path\n"
            '"2"\t"1"\t"1"\t"1"\t"f/album-01-song-30-59.mp3"\n'
            '"6"\t"0"\t"1"\t"0"\t"c/album-02-song-0-29.mp3"\n'
            '"8"\t"1"\t"0"\t"0"\t"0/album-03-song-0-29.mp3"\n',
            "f/album-01-song-30-59.mp3": "sound",
            "c/album-02-song-0-29.mp3": b"",
        },
        {"2": ("test", ["guitar", "choral"], "", "album-01-song")},
        {"6": "empty file", "8": "missing"},
    ),
    "kinetics700": (
        {
            "train.csv": "label,youtube_id,time_start,time_end,split\nabseiling,aa,6,16,train\n"
            "zumba,bb,0,10,train\n",
            "validate.csv": "label,youtube_id,time_start,time_end,split\nzumba,cc,0,10,validate\n",
            "train/abseiling/aa_000006_000016.flac": "sound",
            "train/zumba/bb_000000_000010.flac": b"no sound track",
        },
        {"aa_000006_000016": ("train", ["abseiling"], "", "aa")},
        {"bb_000000_000010": "not audio", "cc_000000_000010": "missing"},
    ),
}
