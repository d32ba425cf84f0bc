"""Every field of a run, with its unit, range and source.

`pretrain.py` and `finetune.py` are deltas on this file. Sections are named after the module
they configure. 'wav2vec 2.0' is Baevski et al. 2020 (arXiv 2006.11477); 'the paper' is
Srivastava et al. 2022 (arXiv 2110.07313); 'ours' marks what the paper leaves open.
"""

import ml_collections

from conformer_jax.errors import unknown


def get_config() -> ml_collections.ConfigDict:
    """Returns the defaults of every field; the encoder is the 18.4 M `small` one."""
    config = ml_collections.ConfigDict()

    config.name = "base"  # names the default workdir, runs/<name>
    # 'pretrain' or 'finetune': which step function the loop takes; 'linear_probe' or 'knn': no
    # loop, the encoder stays as it is.
    config.task = "pretrain"
    config.seed = 0  # root of every random number: parameters, batches, masks, dropout
    config.target = "linear"  # 'linear' (the paper) or 'gumbel' (wav2vec 2.0, section 2)
    config.init_from = ""  # workdir of a run whose encoder parameters are taken; '' for scratch
    config.next_command = ""  # what the closing summary proposes; the run's own paths are added
    config.compare_with_scratch = False  # finetune: train a second time from scratch and compare

    # Log-mel features (models/features.py). The paper confirms log-mel only; the rest is ours.
    config.features = f = ml_collections.ConfigDict()
    f.sample_rate = 16000  # Hz; audio at another rate is resampled when it is read
    f.window_s = 0.025  # s, Hann window
    f.hop_s = 0.010  # s between frames
    f.fft_size = 512  # samples, at least the window
    f.num_mels = 64  # mel bins (authors' prototype)
    f.fmin = 20.0  # Hz, lower edge of the lowest bin
    f.fmax = 8000.0  # Hz, upper edge of the highest bin, at most sample_rate / 2
    f.mel_scale = "slaney"  # 'slaney' or 'htk', as in librosa; both area-normalised
    f.power = 2.0  # exponent of the magnitude: 1 amplitude, 2 power
    f.center = True  # pad half a window of zeros at both ends, so frame t is centred on t * hop
    f.log_floor = 1e-6  # mel values below it are raised to it before the logarithm
    f.mean = ()  # per mel bin; () means: measure on the training corpus
    f.deviation = ()  # per mel bin; () likewise

    # Encoder (models/conformer.py). Sizes: authors' prototype, torchaudio 2.8.
    config.conformer = m = ml_collections.ConfigDict()
    m.stride = 4  # log-mel frames stacked to one token: 4 x 10 ms = 40 ms
    m.feature_dim = 256  # width of a token before the projection to `width`
    m.width = 256  # D
    m.num_heads = 8  # H, divides width
    m.feed_forward_width = 1024
    m.kernel_sizes = (31,) + (15,) * 11  # depthwise kernel of each block, odd; one entry a block
    m.dropout = 0.1  # everywhere inside a block
    m.scan_blocks = False  # run equal blocks as one loop: less to compile, slower on CPU
    # What the backward pass finds saved of a block: 'none' rematerialised, all but 'products', or
    # 'full'. Saves memory, costs time. On CPU XLA undoes it unless scan_blocks is set, too.
    m.remat = "none"
    m.dtype = "float32"  # compute: 'float32' or 'bfloat16'; parameters are always float32

    # Masked spans (models/masking.py).
    config.masking = k = ml_collections.ConfigDict()
    k.span_length = 3  # tokens a span (authors' prototype)
    k.probability = (
        0.3  # number of spans = probability x tokens / span_length (fairseq's convention)
    )

    # Contrastive task (models/wav2vec2.py).
    config.wav2vec2 = w = ml_collections.ConfigDict()
    w.num_distractors = 100  # K, drawn from the clip's other masked tokens (the paper)
    w.temperature = 0.1  # of the cosine similarities (wav2vec 2.0)
    w.projection_dim = 256  # width in which predictions and codes meet; target 'gumbel' only

    # Product quantizer (models/quantizer.py); read only where target = 'gumbel'.
    config.quantizer = q = ml_collections.ConfigDict()
    q.num_groups = 2  # G (wav2vec 2.0)
    q.num_entries = 320  # V, entries of each group (wav2vec 2.0)
    q.code_dim = 256  # width of the concatenated code, divisible by num_groups (wav2vec 2.0)
    q.temperature_start = 2.0  # Gumbel-softmax temperature at step 0 (wav2vec 2.0)
    q.temperature_end = 0.5  # its floor (wav2vec 2.0)
    q.temperature_anneal_share = (
        0.7  # share of the steps to fall from start to end (wav2vec 2.0: 277k of 400k)
    )

    # Losses (steps/losses.py).
    config.losses = s = ml_collections.ConfigDict()
    s.diversity_weight = 0.1  # of the codebook diversity loss, target 'gumbel' (wav2vec 2.0)
    # finetune: this share (0 to 1) of every label goes to all classes evenly; with multi_label,
    # half of it to the presence and half to the absence of each class (Szegedy et al. 2016).
    s.label_smoothing = 0.0

    # Classifier head (models/classifier.py).
    config.classifier = h = ml_collections.ConfigDict()
    # Over valid tokens: 'mean', 'max', 'statistics' (mean and deviation: Snyder et al. 2018),
    # 'attention' (Kong et al. 2018, with one query) or 'linear_softmax' (of token probabilities:
    # Wang, Li & Metze 2019).
    h.pooling = "mean"
    # What is pooled: 'last', the encoder's output, or 'all', the tokens and every block's output
    # side by side (as SUPERB weighs all layers, Yang et al. 2021).
    h.layers = "last"
    # Where the head starts: 'random', or 'probe', the linear probe on the frozen encoder (Kumar et
    # al. 2022, arXiv 2202.10054); for data sets whose embeddings fit into memory.
    h.init = "random"
    h.dropout = 0.1  # on what the head sees: the pooled vector; with 'linear_softmax' every token
    h.multi_label = (
        False  # False: one label a clip, cross-entropy; True: several, binary cross-entropy
    )

    # Linear probe and nearest neighbours on frozen embeddings (evaluation/probe.py).
    config.probe = b = ml_collections.ConfigDict()
    b.l2 = 1e-2  # weight of half the squared norm of the linear probe's standardised weights
    b.max_iterations = 100  # of L-BFGS
    b.neighbors = 20  # k of kNN (Wu et al. 2018: 200 of 1.3 M images; DINO: 20)
    b.temperature = 0.07  # a neighbour's vote is exp(cosine similarity / temperature) (likewise)

    # Augmentation while fine-tuning (steps/augment.py); 0 switches a part off.
    config.augment = a = ml_collections.ConfigDict()
    a.gain_db = 0.0  # dB, each clip louder or softer by up to this (ours; common: 6)
    a.shift_s = 0.0  # s, each clip turned in time by up to this, end to start (ours)
    a.mixup_alpha = 0.0  # Beta(alpha, alpha) of the mixed powers (Zhang et al. 2018)
    a.mixup_share = 1.0  # probability that a clip is mixed (AST, Gong et al. 2021: 0.5)
    a.time_masks = 0  # SpecAugment time masks a clip (Park et al. 2019)
    a.time_mask_s = 0.5  # s, longest time mask
    a.freq_masks = 0  # SpecAugment frequency masks a clip
    a.freq_mask_bins = 12  # mel bins, widest frequency mask

    # Optimizer (steps/optimizer.py): AdamW. The paper names Adam with weight decay; numbers ours.
    config.optimizer = o = ml_collections.ConfigDict()
    o.learning_rate = 5e-4  # peak
    o.warmup_share = 0.08  # share of the steps in linear warm-up (wav2vec 2.0: 8 %)
    o.end_share = 0.0  # final learning rate as a share of the peak, cosine in between
    o.weight_decay = 0.01  # decoupled, on matrices only (no bias, norm or embedding)
    o.b1 = 0.9
    o.b2 = 0.98  # (wav2vec 2.0)
    o.eps = 1e-6  # (wav2vec 2.0)
    o.clip_norm = 1.0  # global gradient norm; 0 switches clipping off
    o.ema_decay = 0.0  # exponential moving average of the parameters, used to evaluate; 0: none
    # Fine-tuning only.
    o.layer_decay = 1.0  # learning rate of block i of n times this ^ (n - i) (ELECTRA: 0.8); 1: off
    o.head_multiplier = 1.0  # learning rate of all that is not encoder, times this (ours)
    # Share of the steps, from the first, in which only the head is trained (wav2vec 2.0: 10k steps
    # of each run); 1: the encoder never is. It saves no time.
    o.freeze_encoder_share = 0.0

    # Device mesh (training/sharding.py): sizes of its axes; one may be -1 and takes what is left.
    config.sharding = d = ml_collections.ConfigDict()
    d.data = -1  # the batch is split, parameters are copied
    d.fsdp = 1  # batch and parameters are split
    d.tensor = 1  # the widths of matrices are split

    # Checkpoints (training/checkpoint.py).
    config.checkpoint = p = ml_collections.ConfigDict()
    p.every_steps = 1000  # steps; one is always written at the last step; 0: only there
    p.keep_last = 2  # newest ones kept
    p.keep_best = 1  # and those with the best held-out metric

    # Audio (data/). With neither `manifest` nor `tfds_name` the synthetic corpus is used.
    config.data = t = ml_collections.ConfigDict()
    t.manifest = ""  # CSV: path[,label][,fold]; paths relative to the CSV, labels separated by ';'
    t.tfds_name = ""  # a prepared TFDS data set with an 'audio' feature, e.g. 'esc50'
    t.tfds_dir = ""  # its data_dir; '' for TFDS's default
    t.clip_s = 5.0  # s a training example: longer files are cropped at random, shorter ones padded
    t.batch_size = 32  # clips a step, over all devices and hosts
    t.eval_batch_size = 32  # clips an evaluation step, likewise
    t.train_folds = ()  # values of the manifest's `fold` column to train on; () all but eval_folds
    t.eval_folds = ()  # and to evaluate on; () holds out eval_share
    # Share of each label's files held out where eval_folds is (), at least one of two or more.
    t.eval_share = 0.05
    t.labels_per_class = 0  # finetune: labelled clips a class kept for training; 0 all
    # finetune: share of the training clips of each class (of those labels_per_class keeps) that
    # judges instead of training. The run then ends with the parameters of its best evaluation on
    # them (accuracy; mAP where multi_label), and the held-out clips are evaluated once. 0: none.
    t.validation_share = 0.0
    # finetune: draw clips so that all classes come up equally often, with replacement, instead of
    # going through all of them (AudioSet: PANNs, Kong et al. 2020).
    t.balanced = False
    t.label_share = 1.0  # finetune: share of each class's labelled clips kept for training
    t.max_bad_share = 0.05  # of the files read so far: above it (and 20 files) the run stops
    t.statistics_clips = 2000  # clips measured for features.mean and .deviation
    t.loader = "auto"  # 'tf' (tf.data), 'threads' (no TensorFlow), 'auto': tf where it is installed
    t.workers = 4  # decoding threads
    t.prefetch = 4  # batches held ready

    # Synthetic corpus (data/synthetic.py), made of parametric sound events.
    config.synthetic = y = ml_collections.ConfigDict()
    y.num_train = 4096  # clips
    y.num_eval = 256  # clips held out
    y.max_classes = 3  # classes sounding in one clip, drawn from 1 to this
    y.snr_db = (0.0, 20.0)  # dB, range of events over background noise

    # The loop (training/loop.py).
    config.train = r = ml_collections.ConfigDict()
    r.num_steps = 100_000
    # Passes that a step's batch is split into, to save memory; divides the batch size. Nothing else
    # changes, but the diversity loss of target 'gumbel', which is then that of each pass.
    r.accumulate = 1
    r.log_every = 100  # steps; 0: only at each save
    r.eval_every = 2000  # steps; 0: only before each save, which always evaluates
    # Evaluations on data.validation_share in a row without improvement; then the run ends. 0: off
    r.early_stopping = 0
    r.max_nonfinite_steps = 20  # in a row; then the run stops (each one is skipped and counted)
    return config


def check_variant(variant: str, known: tuple[str, ...]) -> None:
    """Raises ValueError, with the known ones, unless the variant of a config file is known."""
    if variant not in ("", *known):
        raise ValueError(unknown(f"variant {variant!r}", variant, list(known)))
