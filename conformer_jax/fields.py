"""Every field of a run: its default, unit, range and source.

configs/ hands this on: `base.get_config()` has the defaults below, `pretrain.py` and `finetune.py`
are deltas on them. Sections are named after the module they configure. 'wav2vec 2.0' is Baevski
et al. 2020 (arXiv 2006.11477); 'the paper' is Srivastava et al. 2022 (arXiv 2110.07313); 'ours'
marks what the paper leaves open.

A range stands here and nowhere else: `check` holds a config to all of them. What fields must be to
fit each other is checked by the module that reads them.
"""

import json

import ml_collections

from conformer_jax.errors import UserError, unknown
from conformer_jax.ranges import Each, OneOf, Range, Within
from conformer_jax.reading import TASKS

_FIELDS = ml_collections.ConfigDict()  # the fields as they are declared
_FIELDS.name = "base"  # names the default workdir, runs/<name>
# 'pretrain' or 'finetune': which step function the loop takes; 'linear_probe', 'knn' or
# 'mlp_probe': no loop, the encoder stays as it is.
_FIELDS.task = OneOf(*TASKS)
# Root of every random number: parameters, batches, masks, dropout.
_FIELDS.seed = Within(0, least=0, most=2**32 - 1)
# What pre-training learns: 'wav2vec2', to tell a hidden token from others (the paper); 'clip', to
# tell two views of a clip from those of other clips; 'both', the sum.
_FIELDS.objective = OneOf("wav2vec2", "clip", "both")
# 'linear' (the paper) or 'gumbel' (wav2vec 2.0, section 2; section `quantizer`).
_FIELDS.target = OneOf("linear", "gumbel")
_FIELDS.init_from = ""  # workdir of a run whose encoder parameters are taken; '' for scratch
_FIELDS.next_command = ""  # what the closing summary proposes; the run's own paths are added
_FIELDS.compare_with_scratch = False  # finetune: train a second time from scratch and compare

# Log-mel features (models/features.py). The paper confirms log-mel only; the rest is ours.
_FIELDS.features = f = ml_collections.ConfigDict()
f.sample_rate = Within(16000, least=1000, most=1_000_000)  # Hz, to which audio is resampled
f.window_s = Within(0.025, above=0, most=1)  # s, Hann window
f.hop_s = Within(0.010, above=0, most=1)  # s between frames
f.fft_size = Within(512, least=2, most=65536)  # samples, at least the window
f.num_mels = Within(64, least=1, most=1024)  # mel bins (authors' prototype)
f.fmin = Within(20.0, least=0)  # Hz, lower edge of the lowest bin
f.fmax = Within(8000.0, above=0)  # Hz, upper edge of the highest bin, at most sample_rate / 2
f.mel_scale = OneOf("slaney", "htk")  # 'slaney' or 'htk', as in librosa; both area-normalised
f.power = Within(2.0, above=0, most=4)  # exponent of the magnitude: 1 amplitude, 2 power
f.center = True  # pad half a window of zeros at both ends, so frame t is centred on t * hop
# Mel values below it are raised to it before the logarithm.
f.log_floor = Within(1e-6, above=0, below=1)
f.mean = Each()  # per mel bin; () means: measure on the training corpus
f.deviation = Each(above=0)  # per mel bin; () likewise

# Encoder (models/conformer.py). Sizes: authors' prototype, torchaudio 2.8.
_FIELDS.conformer = m = ml_collections.ConfigDict()
m.stride = Within(4, least=1, most=100)  # log-mel frames stacked to one token: 4 x 10 ms = 40 ms
# Width of a token before the projection to `width`.
m.feature_dim = Within(256, least=1, most=65536)
m.width = Within(256, least=1, most=65536)  # D
m.num_heads = Within(8, least=1, most=1024)  # H, divides width
m.feed_forward_width = Within(1024, least=1, most=262144)
# Depthwise kernel of each block, odd; one entry a block.
m.kernel_sizes = Each(31, *(15,) * 11, least=1, most=1023)
m.dropout = Within(0.1, least=0, below=1)  # everywhere inside a block
m.scan_blocks = False  # run equal blocks as one loop: less to compile, slower on CPU
# What the backward pass finds saved of a block: 'none' rematerialised, all but 'products', or
# 'full'. Saves memory, costs time. On CPU XLA undoes it unless scan_blocks is set, too.
m.remat = OneOf("none", "products", "full")
# Compute: 'float32' or 'bfloat16'; parameters are always float32.
m.dtype = OneOf("float32", "bfloat16")

# Masked spans (models/masking.py).
_FIELDS.masking = k = ml_collections.ConfigDict()
k.span_length = Within(3, least=1, most=1000)  # tokens a span (authors' prototype)
# Number of spans = probability x tokens / span_length (fairseq's convention).
k.probability = Within(0.3, above=0, most=1)

# Contrastive task (models/wav2vec2.py).
_FIELDS.wav2vec2 = w = ml_collections.ConfigDict()
# K, drawn from the clip's other masked tokens (the paper).
w.num_distractors = Within(100, least=1, most=10_000)
w.temperature = Within(0.1, above=0, most=100)  # of the cosine similarities (wav2vec 2.0)
w.projection_dim = Within(256, least=1, most=65536)  # of predictions and codes; 'gumbel' only

# Clip contrast (models/clip_contrast.py); read where objective is 'clip' or 'both'.
_FIELDS.clip = c = ml_collections.ConfigDict()
# 'nt_xent' (SimCLR, Chen et al. 2020), or 'barlow' (Zbontar et al. 2021), for batches under 48.
c.loss = OneOf("nt_xent", "barlow")
c.temperature = Within(0.2, above=0, most=100)  # of the cosines (uclser20, Fonseca et al. 2021)
c.head_width = Within(1024, least=1, most=65536)  # of the projection head; 2048 for `large` (ours)
c.head_dim = Within(128, least=1, most=65536)  # of what is compared (SimCLR); 256 for 'barlow'
c.off_diagonal_weight = Within(5e-3, least=0)  # 'barlow' only (Zbontar et al. 2021)

# Two views of each clip (steps/views.py), in units of normalised log-mel; 0 switches a part off.
# BYOL-A: Niizumi et al. 2021; AudioMosaic hides 0.6 of the time and 0.4 of the bands on AudioSet.
_FIELDS.views = u = ml_collections.ConfigDict()
u.length_s = Within(1.92, above=0, most=3600)  # s (ours; Audio Barlow Twins: 1.6 the best)
u.window = Each(0.6, 1.5, length=2, least=0.05, most=20)  # of length_s, stretched to it (BYOL-A)
u.height = Each(0.6, 1.5, length=2, least=0.05, most=20)  # of the bins, all from 1 on (BYOL-A)
u.candidates = Within(2, least=1, most=100)  # places drawn for a window, the loudest taken (ours)
u.mixup = Within(0.2, least=0, below=1)  # share of another clip behind, up to (BYOL-A: 0.4)
u.noise = Within(0.2, least=0, below=1)  # share of noise in the power, up to (ours: views.py)
u.noise_share = Within(0.5, least=0, most=1)  # probability of it (ours)
u.equaliser = Within(1.0, least=0, most=10)  # highest and lowest of a random curve over bins (ours)
u.equaliser_share = Within(0.5, least=0, most=1)  # probability of it (ours)
u.cutoff_share = Within(0.2, least=0, most=1)  # probability: all above some bin gone (ours)
u.ramp = Within(1.0, least=0, most=10)  # ends of a ramp over time, either sign (BYOL-A)
u.hidden_time = Within(0.2, least=0, below=1)  # of the first view's blocks of tokens (ours)
u.block_tokens = Within(8, least=1, most=1000)  # tokens of such a block (ours)
u.hidden_bands = Within(0.125, least=0, below=1)  # of the second view's bands (ours)
u.bands = Within(8, least=1, most=1024)  # bands, equally wide (ours)

# Product quantizer (models/quantizer.py); read only where target = 'gumbel'.
_FIELDS.quantizer = q = ml_collections.ConfigDict()
q.num_groups = Within(2, least=1, most=64)  # G (wav2vec 2.0)
q.num_entries = Within(320, least=2, most=65536)  # V, entries of each group (wav2vec 2.0)
# How well an entry fits a token: 'linear', a layer says it (wav2vec 2.0); 'distance', as well as it
# is near (VQ-VAE, van den Oord et al. 2017).
q.logits = OneOf("linear", "distance")
# With 'distance': what the mean squared difference is multiplied with (ours).
q.sharpness = Within(30.0, above=0, most=10_000)
# Where the codebook starts: 'random' (wav2vec 2.0), or with 'distance' 'clusters', the centres of
# k-means of the clips' tokens (SoundStream, Zeghidour et al. 2021).
q.init = OneOf("random", "clusters")
# Width of the concatenated code, divisible by num_groups (wav2vec 2.0); with 'distance' it is that
# of a token.
q.code_dim = Within(256, least=1, most=65536)
# Gumbel-softmax temperature at step 0 (wav2vec 2.0).
q.temperature_start = Within(2.0, above=0, most=100)
q.temperature_end = Within(0.5, above=0, most=100)  # its floor (wav2vec 2.0)
# Share of the steps to fall from start to end (wav2vec 2.0: 277k of 400k).
q.temperature_anneal_share = Within(0.7, least=0, most=1)

# Losses (steps/losses.py).
_FIELDS.losses = s = ml_collections.ConfigDict()
# Of the codebook diversity loss, target 'gumbel' (wav2vec 2.0).
s.diversity_weight = Within(0.1, least=0)
s.masked_weight = Within(0.5, least=0)  # of the masked loss in 'both' (ours; EAT: 1)
# finetune: this share (0 to 1) of every label goes to all classes evenly; with multi_label,
# half of it to the presence and half to the absence of each class (Szegedy et al. 2016).
s.label_smoothing = Within(0.0, least=0, below=1)

# Classifier head (models/classifier.py).
_FIELDS.classifier = h = ml_collections.ConfigDict()
# Over valid tokens: 'mean', 'max', 'statistics' (mean and deviation: Snyder et al. 2018),
# 'attention' (Kong et al. 2018, with one query) or 'linear_softmax' (of token probabilities:
# Wang, Li & Metze 2019).
h.pooling = OneOf("mean", "max", "statistics", "attention", "linear_softmax")
# What is pooled: 'last', the encoder's output, or 'all', the tokens and every block's output
# side by side (as SUPERB weighs all layers, Yang et al. 2021).
h.layers = OneOf("last", "all")
# Where the head starts: 'random', or 'probe', the linear probe on the frozen encoder (Kumar et
# al. 2022, arXiv 2202.10054); for data sets whose embeddings fit into memory.
h.init = OneOf("random", "probe")
h.refit = False  # it ends as the probe of what the encoder is then, of clips unweighted (ours)
# On what the head sees: the pooled vector; with 'linear_softmax' every token.
h.dropout = Within(0.1, least=0, below=1)
h.multi_label = False  # one label a clip, cross-entropy; True: several, binary cross-entropy

# In s, of the random stretch of a clip that a training step hears; 0: all of it, data.clip_s.
h.crop_s = Within(0.0, least=0, most=3600)
# What a clip's vector is in evaluation and use: 0, of all of the clip at once; else the mean of so
# many stretches of crop_s, evenly spaced (EnvNet-v2, Tokozume et al. 2018: 10).
h.crops = Within(0, least=0, most=100)

# Labelled clips that each evaluation of a pre-training run tells by their nearest neighbours among
# the others of them (training/monitor.py); no label reaches the training.
_FIELDS.monitor = v = ml_collections.ConfigDict()
v.manifest = ""  # its clips with one label, the middle data.clip_s of each; '' for none
# Values of its column `fold`, those alone: of a benchmark none that is reported. Clips of a fold do
# not tell each other, where there are several; else those of a file or a `group` do not.
v.folds = ()
v.most_clips = Within(2000, least=2)  # of more so many: they are embedded at every evaluation
v.neighbors = Within(20, least=1)
v.temperature = Within(0.07, above=0, most=100)  # as probe.temperature

# Linear probe, nearest neighbours and HEAR's network on frozen embeddings (evaluation/probe.py,
# evaluation/mlp.py).
_FIELDS.probe = b = ml_collections.ConfigDict()
# Weight of half the squared norm of the linear probe's standardised weights.
b.l2 = Within(1e-2, least=0)
b.max_iterations = Within(100, least=1)  # of L-BFGS
b.neighbors = Within(20, least=1)  # k of kNN (Wu et al. 2018: 200 of 1.3 M images; DINO: 20)
# A neighbour's vote is exp(cosine similarity / temperature) (likewise).
b.temperature = Within(0.07, above=0, most=100)
# mlp_probe (HEAR, Turian et al. 2022).
b.hidden_width = Within(1024, least=1, most=65536)
# Of the grid of depths (1, 2) and learning rates (3.2e-3 to 1e-4), the first so many.
b.grid_points = Within(8, least=1, most=8)
b.max_epochs = Within(500, least=1)
b.patience = Within(20, least=1)  # looks, one every 3 epochs, without improvement

# Augmentation while fine-tuning (steps/augment.py); 0 switches a part off.
_FIELDS.augment = a = ml_collections.ConfigDict()
# In dB, each clip louder or softer by up to this (ours; common: 6).
a.gain_db = Within(0.0, least=0, most=60)
# In s, each clip turned in time by up to this, end to start (ours).
a.shift_s = Within(0.0, least=0, most=3600)
# With classifier.crop_s: factor, each crop faster or slower by up to this, at the same pitch
# (Tokozume et al.: 1.25, but with the pitch).
a.speed = Within(1.0, least=1, most=4)
# Beta(alpha, alpha) of the mixed powers (Zhang et al. 2018).
a.mixup_alpha = Within(0.0, least=0, most=100)
# Probability that a clip is mixed (AST, Gong et al. 2021: 0.5).
a.mixup_share = Within(1.0, least=0, most=1)
# Probability that a clip is mixed so that both are heard in the proportion of their labels
# (Tokozume et al. 2018, 'Learning from between-class examples': 1); in place of mixup.
a.between_class = Within(0.0, least=0, most=1)
a.views = Within(0.0, least=0, most=1)  # probability to sound as a view of clip contrast (ours)
a.time_masks = Within(0, least=0, most=100)  # SpecAugment time masks a clip (Park et al. 2019)
a.time_mask_s = Within(0.5, least=0, most=3600)  # s, longest time mask
a.freq_masks = Within(0, least=0, most=100)  # SpecAugment frequency masks a clip
a.freq_mask_bins = Within(12, least=0, most=1024)  # mel bins, widest frequency mask

# Optimizer (steps/optimizer.py): AdamW. The paper names Adam with weight decay; numbers ours.
_FIELDS.optimizer = o = ml_collections.ConfigDict()
o.learning_rate = Within(5e-4, above=0)  # peak
# Share of the steps in linear warm-up (wav2vec 2.0: 8 %).
o.warmup_share = Within(0.08, least=0, below=1)
# Final learning rate as a share of the peak, cosine in between.
o.end_share = Within(0.0, least=0, most=1)
o.weight_decay = Within(0.01, least=0)  # decoupled, on matrices only (no bias, norm or embedding)
o.b1 = Within(0.9, least=0, below=1)
o.b2 = Within(0.98, least=0, below=1)  # (wav2vec 2.0)
o.eps = Within(1e-6, above=0)  # (wav2vec 2.0)
o.clip_norm = Within(1.0, least=0)  # global gradient norm; 0 switches clipping off
# Exponential moving average of the parameters, used to evaluate; 0: none.
o.ema_decay = Within(0.0, least=0, below=1)
# Fine-tuning only.
# Learning rate of block i of n times this ^ (n - i) (ELECTRA: 0.8); 1: off.
o.layer_decay = Within(1.0, above=0, most=1)
# Learning rate of all that is not encoder, times this (ours).
o.head_multiplier = Within(1.0, above=0)
# Share of the steps, from the first, in which only the head is trained (wav2vec 2.0: 10k steps
# of each run); 1: the encoder never is. It saves no time.
o.freeze_encoder_share = Within(0.0, least=0, most=1)

# Device mesh (training/sharding.py): sizes of its axes; one may be -1 and takes what is left.
_FIELDS.sharding = d = ml_collections.ConfigDict()
d.data = Within(-1, least=-1)  # the batch is split, parameters are copied
d.fsdp = Within(1, least=-1)  # batch and parameters are split
d.tensor = Within(1, least=-1)  # the widths of matrices are split

# Checkpoints (training/checkpoint.py).
_FIELDS.checkpoint = p = ml_collections.ConfigDict()
# In steps; one is always written at the last step; 0: only there.
p.every_steps = Within(1000, least=0)
p.keep_last = Within(2, least=1)  # newest ones kept
p.keep_best = Within(1, least=0)  # and those with the best held-out metric

# Audio (data/). Without `manifest`, `tfds_name` and `prepared` the synthetic corpus is used.
_FIELDS.data = t = ml_collections.ConfigDict()
t.manifest = ""  # CSV: path[,label][,fold]; paths relative to the CSV, labels separated by ';'
t.tfds_name = ""  # a prepared TFDS data set with an 'audio' feature, e.g. 'esc50'
t.tfds_dir = ""  # its data_dir; '' for TFDS's default
t.prepared = ""  # folder that `python -m conformer_jax.prepare` has written (docs/data.md)
# Further corpora to train on beside `manifest` or `prepared`: 'PATH=SHARE' of each, a manifest or a
# prepared folder and its share of every batch (data/mixture.py), such as ("b/manifest.csv=0.3",).
t.mixture = ()
# In s, of a training example: longer files are cropped at random, shorter ones padded.
t.clip_s = Within(5.0, above=0, most=3600)
t.batch_size = Within(32, least=1)  # clips a step, over all devices and hosts
t.eval_batch_size = Within(32, least=1)  # clips an evaluation step, likewise
# Values of the manifest's `fold` column to train on; () all but eval_folds. Of a prepared corpus
# folds or splits, such as 'test'; () all but eval_folds and its splits validation, test and eval.
t.train_folds = ()
t.eval_folds = ()  # and to evaluate on; () holds out eval_share
# Share of the clips held out where eval_folds is (), at least one: data/holdout.py.
t.eval_share = Within(0.05, least=0, below=1)
# finetune, with multi_label: clips without a label hold nothing of any class and are trained and
# evaluated on ('negatives'), or nobody has listened to them ('skip').
t.unlabelled = OneOf("negatives", "skip")
# Refuse to evaluate an encoder (init_from) that has heard held-out clips; False: say it.
t.refuse_heard = False
t.labels_per_class = Within(0, least=0)  # finetune: labelled clips a class kept for training; 0 all
# finetune: share of the training clips of each class (of those labels_per_class keeps) that
# judges instead of training. The run then ends with the parameters of its best evaluation on
# them (accuracy; mAP where multi_label), and the held-out clips are evaluated once. 0: none.
t.validation_share = Within(0.0, least=0, below=1)
# finetune: draw clips so that all classes come up equally often, with replacement, instead of
# going through all of them (AudioSet: PANNs, Kong et al. 2020).
t.balanced = False
# What is added to the count of a class there: 1 / (count + offset). The larger, the less balanced.
t.balanced_offset = Within(0.0, least=0)
# Finetune: share of each class's labelled clips kept for training.
t.label_share = Within(1.0, above=0, most=1)
# Of the files read so far: above it (and 20 files) the run stops.
t.max_bad_share = Within(0.05, least=0, most=1)
t.statistics_clips = Within(2000, least=1)  # clips measured for features.mean and .deviation
# 'tf' (tf.data), 'threads' (no TensorFlow), 'auto': tf where it is installed.
t.loader = OneOf("auto", "tf", "threads")
t.workers = Within(4, least=1, most=256)  # decoding threads
t.prefetch = Within(4, least=0, most=1024)  # batches held ready

# Synthetic corpus (data/synthetic.py), made of parametric sound events.
_FIELDS.synthetic = y = ml_collections.ConfigDict()
y.num_train = Within(4096, least=1)  # clips
y.num_eval = Within(256, least=1)  # clips held out
y.max_classes = Within(3, least=1, most=20)  # classes sounding in one clip, drawn from 1 to this
# dB, range of events over background noise
y.snr_db = Each(0.0, 20.0, length=2, least=-100, most=200)

# The loop (training/loop.py).
_FIELDS.train = r = ml_collections.ConfigDict()
r.num_steps = Within(100_000, least=0)
# Passes that a step's batch is split into, to save memory; divides the batch size. Nothing else
# changes, but the diversity loss of target 'gumbel', which is then that of each pass.
r.accumulate = Within(1, least=1)
r.log_every = Within(100, least=0)  # steps; 0: only at each save
r.eval_every = Within(2000, least=0)  # steps; 0: only before each save, which always evaluates
# Evaluations on data.validation_share in a row without improvement; then the run ends. 0: off
r.early_stopping = Within(0, least=0)
# In a row; then the run stops (each one is skipped and counted).
r.max_nonfinite_steps = Within(20, least=1)


def get_config() -> ml_collections.ConfigDict:
    """Returns the defaults of every field; the encoder is the 18.4 M `small` one."""
    return _plain(_FIELDS)


def check(config) -> None:
    """Raises UserError, with field, value and range, for the first value that is out of range."""
    for name, declared in _declared(_FIELDS):
        value = _value(config, name)
        if not declared.allows(value):
            raise UserError(f"config.{name} = {value!r}: it must be {declared}")


def saved(config) -> dict:
    """A config as config.json holds it; folds are strings, however they were given."""
    return _with_named_folds(json.loads(json.dumps(config.to_dict())))


def with_defaults(content: dict) -> dict:
    """A saved config of an earlier version: fields that it lacks have their defaults."""
    return _with_named_folds(_merged(saved(get_config()), content))


def heard_s(config) -> float:
    """s that a training step hears of a clip: a crop of it, or all."""
    crop_s = config.classifier.crop_s if config.task == "finetune" else 0
    return crop_s or config.data.clip_s


def check_variant(variant: str, known: tuple[str, ...]) -> None:
    """Raises ValueError, with the known ones, unless the variant of a config file is known."""
    if variant not in ("", *known):
        raise ValueError(unknown(f"variant {variant!r}", variant, list(known)))


def _plain(declared):
    """A ConfigDict of the defaults, in the order of the declaration."""
    plain = ml_collections.ConfigDict()
    for name, value in declared.items():
        if isinstance(value, ml_collections.ConfigDict):
            plain[name] = _plain(value)
        else:
            plain[name] = value.default if isinstance(value, Range) else value
    return plain


def _declared(section, prefix=""):
    """('data.workers', its range) of every field with a range."""
    for name, value in section.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from _declared(value, f"{prefix}{name}.")
        elif isinstance(value, Range):
            yield prefix + name, value


def _value(config, name):
    for part in name.split("."):
        config = config[part]
    return config


def _with_named_folds(content: dict) -> dict:
    for name, folds in (("data", ("train_folds", "eval_folds")), ("monitor", ("folds",))):
        section = content[name]
        if isinstance(section, dict):
            named = {
                field: [str(fold) for fold in section[field]]
                for field in folds
                if isinstance(section[field], list)
            }
            content = {**content, name: {**section, **named}}
    return content


def _merged(defaults: dict, content: dict) -> dict:
    """`content`, and what of `defaults` it lacks, at any depth."""
    if not isinstance(content, dict):  # a damaged file: it differs, and that is said
        return content
    merged = dict(content)
    for name, default in defaults.items():
        if isinstance(default, dict):
            merged[name] = _merged(default, content.get(name, {}))
        else:
            merged.setdefault(name, default)
    return merged
