"""A corpus of synthetic sound events, made by numpy alone: nothing to download, no files.

A clip holds one or more of the classes in `CLASS_NAMES`, each drawn anew in pitch, tempo, timbre,
loudness and onset times, in a random room and over coloured noise. Classes share spectral ranges
on purpose: a clock, a knock and a step differ in rhythm, a siren, an alarm and a whistle in how
the pitch moves, rain, wind and waves in how the level does.

Every class is one function `scene -> float32 [N]` of any level. Envelopes and pitches are drawn
at a control rate of 400 Hz ([T] below) and stretched to samples. A clip takes about 5 ms.
"""

import threading
from typing import NamedTuple

import numpy as np

CORPUS_SEED = 2110_07313  # fixed: runs with different config.seed share one corpus
CACHED_CLIPS = 2048  # kept by a source, int16: 160 kB a clip of 5 s at 16 kHz, 330 MB in all
SPLITS = ("train", "eval")
CONTROL_HZ = 400
TABLE = 2048  # samples of one period of a tone


class _Scene(NamedTuple):
    """What a class draws on: the clip's random stream, its rate (Hz) and length (samples)."""

    rng: np.random.Generator
    rate: int
    size: int

    @property
    def hop(self) -> int:
        return max(1, round(self.rate / CONTROL_HZ))

    @property
    def times(self) -> np.ndarray:
        """Control times [T], s; the last is at or past the end of the clip."""
        return np.arange(-(-self.size // self.hop) + 1) * (self.hop / self.rate)

    def log(self, low: float, high: float, size=None):
        """Log-uniform in [low, high]: a float, or an array of `size`."""
        return low * (high / low) ** self.rng.random(size)


def _stretch(scene: _Scene, control: np.ndarray) -> np.ndarray:
    """Linear interpolation from control points [T] to samples [N], of the same type."""
    ramp = np.arange(scene.hop) / scene.hop
    lines = control[:-1, None] + np.diff(control)[:, None] * ramp.astype(control.dtype)
    return lines.ravel()[: scene.size]


def _level(scene: _Scene, control: np.ndarray) -> np.ndarray:
    """A control curve [T] as a gain [N], float32."""
    return _stretch(scene, np.asarray(control, np.float32))


def _drift(scene: _Scene, hz: float) -> np.ndarray:
    """A random curve [T] in [-1, 1] with about `hz` turns a second."""
    steps = scene.times * hz + scene.rng.random()
    return np.interp(
        steps, np.arange(int(steps[-1]) + 2), scene.rng.uniform(-1, 1, int(steps[-1]) + 2)
    )


def _onsets(scene: _Scene, period: float, jitter: float, group: int = 1, pause: float = 0.0):
    """Onset times [E], s: `period` apart give or take jitter x period; pauses after groups."""
    length = scene.size / scene.rate
    steps = period * (
        1 + jitter * scene.rng.uniform(-1, 1, int(length / period / (1 - jitter)) + 2)
    )
    steps[group - 1 :: group] += pause * scene.rng.uniform(0.6, 1.4, len(steps[group - 1 :: group]))
    onsets = scene.rng.uniform(0, min(length / 4, period + pause)) + np.cumsum(steps) - steps[0]
    return onsets[onsets < max(length - 0.1, onsets[0] + 1e-6)]


def _progress(scene: _Scene, onsets: np.ndarray, lengths) -> tuple[np.ndarray, np.ndarray]:
    """For each control time, the latest event and the share of its length (s) gone by: [T], [T].

    An event ends where the next begins, at the latest.
    """
    event = np.maximum(np.searchsorted(onsets, scene.times, "right") - 1, 0)
    lengths = np.minimum(lengths, np.diff(onsets, append=np.inf))
    return event, (scene.times - onsets[event]) / lengths[event]


def _arc(progress: np.ndarray, attack: float, bend: float) -> np.ndarray:
    """Envelope: up to 1 while progress < attack, down to 0 at 1 (the faster the higher `bend`)."""
    fall = np.clip((1 - progress) / (1 - attack), 0, 1) ** bend
    return np.clip(progress / attack, 0, 1) * fall


def _band(scene: _Scene, low: float, high: float, slope: float) -> np.ndarray:
    """Amplitude response [N // 2 + 1]: passes low..high (Hz), falls by f ** -slope in between."""
    freqs = np.arange(1, scene.size // 2 + 2, dtype=np.float32) * (scene.rate / scene.size)
    below, above = np.square(float(low) / freqs), np.square(freqs / float(high))
    response = 1 / ((1 + np.square(below)) * (1 + np.square(above)))
    return response * freqs ** -float(slope) if slope else response


def _noise(scene: _Scene, low: float, high: float, slope: float = 0.0) -> np.ndarray:
    """Gaussian noise [N] in a band: random bytes as its spectrum."""
    half = scene.size // 2 + 1
    parts = np.frombuffer(scene.rng.bytes(2 * half), np.int8).astype(np.float32) + 0.5
    return _unit(
        np.fft.irfft(parts.view(np.complex64) * _band(scene, low, high, slope), scene.size)
    )


def _crackle(scene: _Scene, num: int, low: float, high: float, level=None) -> np.ndarray:
    """`num` clicks of random strength at random times, in a band; `level` [N] shapes the crowd."""
    clicks = np.zeros(scene.size, np.float32)
    clicks[scene.rng.integers(scene.size, size=num)] = scene.rng.standard_normal(num) ** 3
    clicks = clicks if level is None else clicks * level
    return _unit(np.fft.irfft(np.fft.rfft(clicks) * _band(scene, low, high, 0.0), scene.size))


def _tone(scene: _Scene, pitch: np.ndarray, slope: float, harmonics: int = 30) -> np.ndarray:
    """Periodic sound [N] of a moving pitch [T], Hz: harmonic k has about k ** -slope."""
    harmonics = int(np.clip(0.45 * scene.rate / pitch.max(), 1, harmonics))
    spectrum = np.zeros(TABLE // 2 + 1, np.complex64)
    order = np.arange(1.0, harmonics + 1)
    uneven = np.exp(0.7 * scene.rng.standard_normal(harmonics))
    spectrum[1 : harmonics + 1] = (
        order**-slope * uneven * np.exp(6.3j * scene.rng.random(harmonics))
    )
    phase = np.concatenate([[0], np.cumsum(pitch[:-1])]) * (scene.hop / scene.rate * TABLE)
    return _unit(np.fft.irfft(spectrum))[_stretch(scene, phase).astype(np.int32) & (TABLE - 1)]


def _strike(scene: _Scene, onsets, freqs, decays, spread: float = 0.3) -> np.ndarray:
    """Struck body [N]: modes (Hz, decay in s) ring at every onset, strengths vary by `spread`.

    Mode m is the power z_m ** n; with n = 128 b + j all of them are one matrix product.
    """
    freqs, decays = np.broadcast_arrays(np.minimum(freqs, 0.45 * scene.rate), decays)
    log_z = (-1 / decays + 2j * np.pi * freqs) / scene.rate
    blocks = int(np.clip(6 * decays.max() * scene.rate, 256, scene.size)) // 128
    strength = scene.rng.standard_normal(len(freqs)) * np.exp(
        spread * scene.rng.standard_normal((len(onsets), len(freqs)))
    )
    start = np.exp(128 * np.arange(blocks)[:, None] * log_z) * strength[:, None, :]
    inner = np.exp(np.arange(128)[:, None] * log_z)
    start = np.concatenate([start.imag, start.real], -1, dtype=np.float32)  # sine: starts at 0
    inner = np.concatenate([inner.real, inner.imag], -1, dtype=np.float32)
    rings = (start @ inner.T).reshape(len(onsets), -1)
    sound = np.zeros(scene.size + rings.shape[1], np.float32)
    for onset, ring in zip((np.asarray(onsets) * scene.rate).astype(int), rings, strict=True):
        sound[onset : onset + len(ring)] += ring
    return _unit(sound[: scene.size])


def _unit(sound: np.ndarray) -> np.ndarray:
    """The sound at a root mean square of 1."""
    return sound / np.float32(np.sqrt(np.mean(np.square(sound))) + 1e-9)


def engine(s: _Scene) -> np.ndarray:
    """Firing cylinders: a rough low tone whose speed wanders, and noise in its rhythm."""
    pitch = s.log(25, 90) * 2 ** (s.rng.uniform(0.05, 0.6) * _drift(s, s.log(0.3, 1.5)))
    tone = _tone(s, pitch, s.rng.uniform(0.2, 1.2))
    return tone + s.log(0.1, 0.8) * tone * _noise(s, s.log(80, 400), s.log(800, 5000))


def helicopter(s: _Scene) -> np.ndarray:
    """Blade slap: noise in pulses, 8 to 22 a second, under a faint whine."""
    turns = np.cumsum(s.log(8, 22) * 2 ** (0.1 * _drift(s, 0.5))) * s.hop / s.rate
    slap = 0.1 + _arc(turns % 1, 0.15, s.rng.uniform(1, 5))
    noise = _noise(s, s.log(40, 200), s.log(400, 4000), s.rng.uniform(0, 0.7))
    whine = _tone(s, s.log(300, 2500) + 0 * turns, 1.5)
    return noise * _level(s, slap * (1 + 0.5 * _drift(s, 0.4))) + s.log(0.01, 0.2) * whine


def siren(s: _Scene) -> np.ndarray:
    """A tone that sweeps, or steps between two pitches, without a break."""
    turns = s.times / s.log(0.3, 2.5) + s.rng.random()
    sine, triangle = np.sin(2 * np.pi * turns), 4 * np.abs(turns % 1 - 0.5) - 1
    sweep = (sine, triangle, np.tanh(8 * sine))[s.rng.integers(3)]
    pitch = s.log(600, 1300) * 2 ** (s.rng.uniform(0.15, 0.5) * sweep)
    return _tone(s, pitch, s.rng.uniform(1, 2.5), 8) * _level(s, 1 + 0.5 * _drift(s, 0.5))


def alarm(s: _Scene) -> np.ndarray:
    """Beeps of one steady pitch, evenly timed, alone or in groups."""
    period = s.log(0.12, 0.9)
    onsets = _onsets(s, period, 0.0, s.rng.integers(1, 5), s.rng.choice([0, 1]) * s.log(0.2, 1))
    _, progress = _progress(s, onsets, period * s.rng.uniform(0.3, 0.8))
    pitch = s.log(1000, 3000) * np.ones(len(progress))
    return _tone(s, pitch, s.rng.uniform(0.8, 2), 8) * _level(s, _arc(progress, 0.05, 0.1))


def whistle(s: _Scene) -> np.ndarray:
    """Whistled notes: almost pure, gliding, with vibrato and breath."""
    onsets = _onsets(s, s.log(0.4, 1.5), 0.3)
    event, progress = _progress(s, onsets, s.log(0.25, 1.5, len(onsets)))
    note = s.rng.uniform(-0.35, 0.35, (2, len(onsets)))[:, event]
    vibrato = s.log(0.002, 0.04) * np.sin(2 * np.pi * s.log(4, 8) * s.times)
    pitch = s.log(900, 2200) * 2 ** (note[0] + note[1] * np.clip(progress, 0, 1) + vibrato)
    sound = _tone(s, pitch, 3.5, 4) + s.log(0.05, 0.3) * _noise(s, 800, 4000)
    return sound * _level(s, _arc(progress, s.rng.uniform(0.05, 0.4), 0.5))


def bird_chirp(s: _Scene) -> np.ndarray:
    """Phrases of quick chirps, each a fast sweep of the same form."""
    onsets = _onsets(s, s.log(0.06, 0.25), 0.15, s.rng.integers(2, 12), s.log(0.3, 1.5))
    event, progress = _progress(s, onsets, s.log(0.03, 0.12))
    form = s.rng.uniform(-0.6, 0.6) * progress + s.rng.uniform(-0.5, 0.5) * progress**2
    pitch = s.log(2200, 4500) * 2 ** (np.clip(form, -1, 1) + 0.15 * _drift(s, 2))
    gains = s.log(0.3, 1, len(onsets))[event]
    return _tone(s, pitch, 2, 3) * _level(s, gains * _arc(progress, 0.3, 1))


def crickets(s: _Scene) -> np.ndarray:
    """Insects, one or two: a high steady tone in fast pulses, as a trill or as chirps."""
    sound = 0
    for _ in range(s.rng.integers(1, 3)):
        pulses = _arc(s.times * s.log(14, 60) % 1, 0.4, 1)
        chirp = _arc(s.times / s.log(0.25, 1.5) % 1 / s.rng.uniform(0.2, 0.7), 0.1, 0.3)
        chirp = chirp if s.rng.random() < 0.6 else 1 + 0.3 * _drift(s, 1)
        tone = _tone(s, s.log(3000, 6000) + 40 * _drift(s, 5), 3, 2)
        sound = sound + s.log(0.3, 1) * tone * _level(s, pulses * chirp)
    return sound


def rain(s: _Scene) -> np.ndarray:
    """Steady hiss of far drops, crackle of near ones."""
    hiss = _noise(s, s.log(200, 2000), s.log(2500, 8000), s.rng.uniform(0, 0.6))
    drops = _crackle(s, s.rng.integers(100, 3000), s.log(300, 2000), s.log(2500, 8000))
    return hiss * _level(s, 1 + 0.2 * _drift(s, 0.5)) + s.log(0.1, 2) * drops


def wind(s: _Scene) -> np.ndarray:
    """Gusts: noise that gets brighter as it swells, at no fixed pace."""
    gust = np.exp(s.rng.uniform(0.7, 1.6) * (_drift(s, s.log(0.5, 2)) + 0.3 * _drift(s, 6)))
    low = _noise(s, 30, s.log(150, 800), s.rng.uniform(0, 0.8))
    high = _noise(s, s.log(300, 1500), s.log(1000, 6000))
    return low * _level(s, gust) + s.log(0.05, 0.6) * high * _level(s, gust**2)


def sea_waves(s: _Scene) -> np.ndarray:
    """Waves every 1.5 to 4 s: a low swell, then the hiss of the breaking crest."""
    period = s.log(1.5, 4)
    onsets = _onsets(s, period, 0.2) - s.rng.uniform(0, period)
    _, swell = _progress(s, onsets, period * 1.1)
    rise = s.rng.uniform(0.25, 0.6)
    low = _noise(s, 40, s.log(300, 1500), s.rng.uniform(0, 0.6)) * _level(s, _arc(swell, rise, 1.5))
    crest = _arc(swell - 0.15, rise, s.rng.uniform(1.5, 4)) + 0.05
    return low + s.log(0.3, 2) * _noise(s, s.log(300, 1500), s.log(2500, 8000)) * _level(s, crest)


def clock_tick(s: _Scene) -> np.ndarray:
    """Even, short, dry clicks: tick and tock differ in strength."""
    onsets = _onsets(s, s.log(0.2, 1.0), 0.01)
    freqs, tock = s.log(s.log(1500, 3000), 7500, 8), s.log(0.3, 1)
    tick = _strike(s, onsets[::2], freqs, s.log(0.002, 0.012, 8), 0.1)
    if len(onsets) < 2:
        return tick
    return tick + tock * _strike(
        s, onsets[1::2], freqs * s.rng.uniform(0.7, 1.1), s.log(0.002, 0.015)
    )


def knock(s: _Scene) -> np.ndarray:
    """Groups of 2 to 6 raps on wood or metal, then a pause."""
    onsets = _onsets(s, s.log(0.1, 0.35), 0.12, s.rng.integers(2, 7), s.log(0.5, 1.6))
    return _strike(s, onsets, s.log(s.log(150, 450), 3000, 8), s.log(0.008, 0.05, 8), 0.25)


def footsteps(s: _Scene) -> np.ndarray:
    """A gait: heel, then the sole's scrape, near-even and never twice the same."""
    onsets = _onsets(s, s.log(0.28, 0.8), 0.08)
    heel = _strike(s, onsets, s.log(s.log(70, 200), 1500, 8), s.log(0.004, 0.03, 8), 0.6)
    gains = s.log(0.4, 1, len(onsets))
    event, scrape = _progress(s, onsets + s.rng.uniform(0.02, 0.1), s.log(0.05, 0.2))
    sole = _noise(s, s.log(500, 1500), s.log(2500, 8000)) * _level(
        s, gains[event] * _arc(scrape, 0.4, 1)
    )
    return heel + s.log(0.3, 1.5) * _unit(sole)


def dog_bark(s: _Scene) -> np.ndarray:
    """Hoarse barks, one to four in a row: the pitch rises and falls within each."""
    onsets = _onsets(s, s.log(0.2, 0.6), 0.2, s.rng.integers(1, 5), s.log(0.3, 1.5))
    event, progress = _progress(s, onsets, s.log(0.1, 0.3))
    arch = s.rng.uniform(0.2, 0.8) * np.sin(np.pi * np.clip(progress, 0, 1))
    tone = _tone(s, s.log(250, 700) * 2 ** (arch + 0.1 * _drift(s, 3)), s.rng.uniform(0.3, 1.2), 16)
    breath = _noise(s, s.log(300, 900), s.log(1500, 5000))
    gains = s.log(0.4, 1, len(onsets))[event]
    return (tone + s.log(0.2, 1) * breath) * _level(s, gains * _arc(progress, 0.15, 1))


def bell(s: _Scene) -> np.ndarray:
    """Struck bell: inharmonic partials, the lower the longer."""
    onsets = _onsets(s, s.log(0.4, 3), s.rng.choice([0.02, 0.4]))
    ratios = np.array([0.5, 1, 1.2, 1.5, 2, 2.5, 2.67, 3, 4.1]) * s.log(0.93, 1.07, 9)
    return _strike(s, onsets[:6], s.log(350, 900) * ratios, s.log(0.3, 1.5) / ratios, 0.2)


def glass_break(s: _Scene) -> np.ndarray:
    """A burst of noise, then shards that ring at random times and pitches."""
    burst = _onsets(s, s.log(1.5, 5), 0.3)
    shards = s.rng.integers(12, 40)
    falls = s.rng.choice(burst, shards) + s.rng.exponential(s.log(0.1, 0.4), shards)
    falls = falls[falls < s.size / s.rate - 0.01]
    falls = falls if len(falls) else burst
    _, progress = _progress(s, burst, s.log(0.1, 0.4))
    crash = _noise(s, s.log(500, 2500), 8000) * _level(s, _arc(progress, 0.02, 4))
    rings = _strike(s, falls, s.log(s.log(1200, 3000), 7000, 24), s.log(0.01, 0.08, 24), 1.5)
    return _unit(crash) + s.log(0.3, 2) * rings


def water_drops(s: _Scene) -> np.ndarray:
    """Drops into water: short bubbles whose pitch rises, at uneven times."""
    onsets = _onsets(s, s.log(0.12, 0.6), 0.8)
    event, progress = _progress(s, onsets, s.log(0.03, 0.1))
    base = s.log(500, 1300) * s.log(0.6, 1.6, len(onsets))[event]
    pitch = base * 2 ** (s.rng.uniform(0.3, 1.2) * np.clip(progress, 0, 1))
    gains = s.log(0.15, 1, len(onsets))[event]
    return _tone(s, pitch, 3, 3) * _level(s, gains * _arc(progress, 0.08, 2))


def thunder(s: _Scene) -> np.ndarray:
    """A crack, then rolls of low rumble that die away."""
    first = s.rng.uniform(0, s.size / s.rate / 3)
    claps = np.sort(np.append(first, first + s.rng.exponential(1.2, 6)))
    event, roll = _progress(s, claps, s.log(0.8, 4, 7))
    level = _arc(roll, 0.03, 1.2) * (s.log(0.3, 1, 7) * np.exp(-0.15 * np.arange(7)))[event]
    _, crack = _progress(s, claps[:2], s.log(0.2, 1.2))
    rumble = _noise(s, 25, s.log(150, 700), 0.2) * _level(s, level * (1 + 0.6 * _drift(s, 12)))
    return rumble + s.log(0.1, 1) * _noise(s, 100, s.log(800, 5000)) * _level(
        s, _arc(crack, 0.02, 3)
    )


def handsaw(s: _Scene) -> np.ndarray:
    """Strokes to and fro: rough noise that swells with each, the two ways unlike."""
    period = s.log(0.18, 0.6)
    event, progress = _progress(s, _onsets(s, period, 0.06), period * s.rng.uniform(0.7, 0.95))
    teeth = 1 + s.rng.uniform(0, 0.8) * np.sin(2 * np.pi * s.log(30, 120) * s.times)
    level = _arc(progress, s.rng.uniform(0.2, 0.7), 0.7) * teeth
    low, high = s.log(200, 2000, 2), s.log(2500, 8000, 2)
    pull, push = (
        _noise(s, low[way], high[way]) * _level(s, level * (event % 2 == way)) for way in (0, 1)
    )
    return pull + s.log(0.3, 1) * push


def applause(s: _Scene) -> np.ndarray:
    """A crowd of claps, sparse to dense, that swells and tires."""
    level = _level(s, np.exp(s.rng.uniform(0, 1.2) * _drift(s, 0.4)))
    return _crackle(s, int(s.log(150, 1500)), s.log(400, 1200), s.log(1500, 4000), level)


_CLASSES = (
    *(engine, helicopter, siren, alarm, whistle, bird_chirp, crickets, rain, wind, sea_waves),
    *(clock_tick, knock, footsteps, dog_bark, bell, glass_break, water_drops, thunder, handsaw),
    applause,
)
CLASS_NAMES: tuple[str, ...] = tuple(function.__name__ for function in _CLASSES)


def _generator(seed: int, split: str, stream: int, index: int) -> np.random.Generator:
    """Philox keyed by its arguments: every (split, stream, index) is a random stream of its own."""
    words = (seed, SPLITS.index(split), stream, index)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


def clip_labels(seed: int, split: str, index: int, *, max_classes: int) -> tuple[int, ...]:
    """Classes of a clip, sorted, without rendering it.

    The first goes through all classes once in every block of len(CLASS_NAMES) clips, in an order
    of the block's own; 0 to max_classes - 1 others, equally likely, join it.
    """
    num = len(CLASS_NAMES)
    if not 1 <= max_classes <= num:
        raise ValueError(f"synthetic.max_classes must be 1 to {num}, got {max_classes}")
    block, place = divmod(index, num)
    first = int(_generator(seed, split, 0, block).permutation(num)[place])
    rng = _generator(seed, split, 1, index)
    others = [label for label in rng.permutation(num).tolist() if label != first]
    return tuple(sorted([first, *others[: rng.integers(max_classes)]]))


def _active_level(scene: _Scene, sound: np.ndarray) -> float:
    """Root mean square over the 50 ms frames within 20 dB of the loudest."""
    frame = min(scene.size, scene.rate // 20)
    whole = sound[: scene.size // frame * frame].reshape(-1, frame)
    power = np.einsum("tn,tn->t", whole, whole) / frame
    return float(np.sqrt(power[power >= 0.01 * power.max()].mean())) + 1e-9


def _room(scene: _Scene, sound: np.ndarray) -> np.ndarray:
    """Room and microphone [N]: an echo, a reverberant tail, a tilt and roll-offs of the spectrum.

    The filter is circular: what rings past the end of the clip returns, faint, at its start.
    """
    rng, num = scene.rng, min(scene.size, scene.rate * 2 // 5)
    decay = np.exp(-np.arange(num, dtype=np.float32) / (scene.log(0.01, 0.06) * scene.rate))
    response = rng.standard_normal(num, np.float32) * decay
    response *= np.float32(scene.log(0.03, 0.5) / np.sqrt(np.sum(response**2)))
    response[0] = 1
    response[int(scene.log(0.0005, 0.02) * scene.rate) % num] += rng.uniform(-0.5, 0.5)
    band = _band(scene, scene.log(20, 120), scene.log(4000, 12000), rng.uniform(-0.2, 0.2))
    return np.fft.irfft(np.fft.rfft(sound) * np.fft.rfft(response, scene.size) * band, scene.size)


def render_clip(
    seed: int,
    split: str,
    index: int,
    *,
    max_classes: int,
    snr_db: tuple[float, float],
    sample_rate: int,
    num_samples: int,
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Renders clip `index` of a split: a pure function of its arguments.

    The classes' levels lie within 10 dB of one another; the background's lies below their sum by
    an SNR drawn from `snr_db` (dB), levels being measured where the events sound. The peak is
    drawn from -13 to -1 dB of full scale.

    Returns:
        Audio, float32 [N], multiples of 2 ** -15 in [-1, 1], and the sorted labels. Hosts draw
        the same random numbers; where their CPUs round sines differently, a sample may differ by
        2 ** -15.

    Raises:
        ValueError: `max_classes` is not from 1 to len(CLASS_NAMES).
    """
    labels = clip_labels(seed, split, index, max_classes=max_classes)
    scene = _Scene(_generator(seed, split, 2, index), sample_rate, num_samples)
    events = np.zeros(num_samples, np.float32)
    for label in labels:
        sound = _CLASSES[label](scene)
        events += sound * np.float32(scene.log(10**-0.5, 1) / _active_level(scene, sound))
    events = _room(scene, events)
    background = _noise(scene, 20, sample_rate, scene.rng.uniform(0.3, 0.8))
    background *= _level(scene, np.exp(scene.rng.uniform(0, 0.5) * _drift(scene, 0.7)))
    snr = 10 ** (scene.rng.uniform(*snr_db) / 20)
    mixed = events / np.float32(_active_level(scene, events)) + _unit(background) / np.float32(snr)
    peak = 10 ** (scene.rng.uniform(-13, -1) / 20)
    mixed *= np.float32(peak * 32768 / np.abs(mixed).max())
    return np.rint(mixed) / np.float32(32768), labels


class SyntheticSource:
    """One split of the corpus, by position; the interface of the sources in sources.py.

    The corpus is the same for every config.seed (`CORPUS_SEED` fixes it), so that runs with
    several seeds share their data. 'train' and 'eval' are separate random streams. For
    config.task 'pretrain' no label is shown: `label_names` and `labels(i)` are empty.

    The first `CACHED_CLIPS` clips read stay in memory as int16 (330 MB for clips of 5 s at
    16 kHz); the others are rendered at every read. Threads may share a source.

    Raises:
        ValueError: the split is not 'train' or 'eval'.
    """

    def __init__(self, config, split: str):
        if split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
        settings = config.synthetic
        self.sample_rate = config.features.sample_rate  # Hz
        self.label_names = () if config.task == "pretrain" else CLASS_NAMES
        self._split = split
        self._length = settings.num_train if split == "train" else settings.num_eval
        self._max_classes = settings.max_classes
        self._snr_db = tuple(settings.snr_db)
        self._num_samples = round(config.data.clip_s * self.sample_rate)
        self._cache: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._length

    def example_id(self, i: int) -> str:
        return f"synthetic/{self._split}/{self._check(i):06d}"

    def labels(self, i: int) -> tuple[int, ...]:
        """Sorted classes of clip `i`, without rendering it; () for pre-training."""
        labels = clip_labels(
            CORPUS_SEED, self._split, self._check(i), max_classes=self._max_classes
        )
        return labels if self.label_names else ()

    def read(self, i: int, num_samples: int, position: float | None) -> np.ndarray:
        """Audio of clip `i`: float32 [n], n = min(num_samples, its length).

        A longer clip is cropped from floor(position x (length - num_samples + 1)), position in
        [0, 1), or from the middle where it is None.
        """
        audio = self._clip(self._check(i))
        spare = max(len(audio) - num_samples, 0)
        start = spare // 2 if position is None else int(position * (spare + 1))
        return audio[start : start + num_samples].astype(np.float32) / np.float32(32768)

    def _check(self, i: int) -> int:
        if not 0 <= i < self._length:
            raise IndexError(f"clip {i} of synthetic/{self._split}, which has {self._length}")
        return i

    def _clip(self, i: int) -> np.ndarray:
        if i in self._cache:
            return self._cache[i]
        audio, _ = render_clip(
            CORPUS_SEED,
            self._split,
            i,
            max_classes=self._max_classes,
            snr_db=self._snr_db,
            sample_rate=self.sample_rate,
            num_samples=self._num_samples,
        )
        clip = (audio * 32768).astype(np.int16)
        with self._lock:
            if len(self._cache) < CACHED_CLIPS:
                self._cache[i] = clip
        return clip
