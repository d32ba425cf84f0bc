"""The sound events of the synthetic corpus, each one function `scene -> float32 [N]` of any level.

Envelopes and pitches are drawn at a control rate of 400 Hz ([T] below) and stretched to samples.
Classes share spectral ranges on purpose: a clock, a knock and a step differ in rhythm, a siren, an
alarm and a whistle in how the pitch moves, rain, wind and waves in how the level does.
"""

from typing import NamedTuple

import numpy as np

CONTROL_HZ = 400
TABLE = 2048  # samples of one period of a tone


class Scene(NamedTuple):
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


def _stretch(scene: Scene, control: np.ndarray) -> np.ndarray:
    """Linear interpolation from control points [T] to samples [N], of the same type."""
    ramp = np.arange(scene.hop) / scene.hop
    lines = control[:-1, None] + np.diff(control)[:, None] * ramp.astype(control.dtype)
    return lines.ravel()[: scene.size]


def gain_curve(scene: Scene, control: np.ndarray) -> np.ndarray:
    """A control curve [T] as a gain [N], float32."""
    return _stretch(scene, np.asarray(control, np.float32))


def random_drift(scene: Scene, hz: float) -> np.ndarray:
    """A random curve [T] in [-1, 1] with about `hz` turns a second."""
    steps = scene.times * hz + scene.rng.random()
    return np.interp(
        steps, np.arange(int(steps[-1]) + 2), scene.rng.uniform(-1, 1, int(steps[-1]) + 2)
    )


def _onsets(scene: Scene, period: float, jitter: float, group: int = 1, pause: float = 0.0):
    """Onset times [E], s: `period` apart give or take jitter x period; pauses after groups."""
    length = scene.size / scene.rate
    steps = period * (
        1 + jitter * scene.rng.uniform(-1, 1, int(length / period / (1 - jitter)) + 2)
    )
    steps[group - 1 :: group] += pause * scene.rng.uniform(0.6, 1.4, len(steps[group - 1 :: group]))
    onsets = scene.rng.uniform(0, min(length / 4, period + pause)) + np.cumsum(steps) - steps[0]
    return onsets[onsets < max(length - 0.1, onsets[0] + 1e-6)]


def _progress(scene: Scene, onsets: np.ndarray, lengths) -> tuple[np.ndarray, np.ndarray]:
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


def band_gain(scene: Scene, low: float, high: float, slope: float) -> np.ndarray:
    """Amplitude response [N // 2 + 1]: passes low..high (Hz), falls by f ** -slope in between."""
    freqs = np.arange(1, scene.size // 2 + 2, dtype=np.float32) * (scene.rate / scene.size)
    below, above = np.square(float(low) / freqs), np.square(freqs / float(high))
    response = 1 / ((1 + np.square(below)) * (1 + np.square(above)))
    return response * freqs ** -float(slope) if slope else response


def coloured_noise(scene: Scene, low: float, high: float, slope: float = 0.0) -> np.ndarray:
    """Gaussian noise [N] in a band: random bytes as its spectrum."""
    half = scene.size // 2 + 1
    parts = np.frombuffer(scene.rng.bytes(2 * half), np.int8).astype(np.float32) + 0.5
    return unit_rms(
        np.fft.irfft(parts.view(np.complex64) * band_gain(scene, low, high, slope), scene.size)
    )


def _crackle(scene: Scene, num: int, low: float, high: float, level=None) -> np.ndarray:
    """`num` clicks of random strength at random times, in a band; `level` [N] shapes the crowd."""
    clicks = np.zeros(scene.size, np.float32)
    clicks[scene.rng.integers(scene.size, size=num)] = scene.rng.standard_normal(num) ** 3
    clicks = clicks if level is None else clicks * level
    return unit_rms(
        np.fft.irfft(np.fft.rfft(clicks) * band_gain(scene, low, high, 0.0), scene.size)
    )


def _tone(scene: Scene, pitch: np.ndarray, slope: float, harmonics: int = 30) -> np.ndarray:
    """Periodic sound [N] of a moving pitch [T], Hz: harmonic k has about k ** -slope."""
    harmonics = int(np.clip(0.45 * scene.rate / pitch.max(), 1, harmonics))
    spectrum = np.zeros(TABLE // 2 + 1, np.complex64)
    order = np.arange(1.0, harmonics + 1)
    uneven = np.exp(0.7 * scene.rng.standard_normal(harmonics))
    spectrum[1 : harmonics + 1] = (
        order**-slope * uneven * np.exp(6.3j * scene.rng.random(harmonics))
    )
    phase = np.concatenate([[0], np.cumsum(pitch[:-1])]) * (scene.hop / scene.rate * TABLE)
    return unit_rms(np.fft.irfft(spectrum))[_stretch(scene, phase).astype(np.int32) & (TABLE - 1)]


def _strike(scene: Scene, onsets, freqs, decays, spread: float = 0.3) -> np.ndarray:
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
    return unit_rms(sound[: scene.size])


def unit_rms(sound: np.ndarray) -> np.ndarray:
    """The sound at a root mean square of 1."""
    return sound / np.float32(np.sqrt(np.mean(np.square(sound))) + 1e-9)


def engine(s: Scene) -> np.ndarray:
    """Firing cylinders: a rough low tone whose speed wanders, and noise in its rhythm."""
    pitch = s.log(25, 90) * 2 ** (s.rng.uniform(0.05, 0.6) * random_drift(s, s.log(0.3, 1.5)))
    tone = _tone(s, pitch, s.rng.uniform(0.2, 1.2))
    return tone + s.log(0.1, 0.8) * tone * coloured_noise(s, s.log(80, 400), s.log(800, 5000))


def helicopter(s: Scene) -> np.ndarray:
    """Blade slap: noise in pulses, 8 to 22 a second, under a faint whine."""
    turns = np.cumsum(s.log(8, 22) * 2 ** (0.1 * random_drift(s, 0.5))) * s.hop / s.rate
    slap = 0.1 + _arc(turns % 1, 0.15, s.rng.uniform(1, 5))
    noise = coloured_noise(s, s.log(40, 200), s.log(400, 4000), s.rng.uniform(0, 0.7))
    whine = _tone(s, s.log(300, 2500) + 0 * turns, 1.5)
    return noise * gain_curve(s, slap * (1 + 0.5 * random_drift(s, 0.4))) + s.log(0.01, 0.2) * whine


def siren(s: Scene) -> np.ndarray:
    """A tone that sweeps, or steps between two pitches, without a break."""
    turns = s.times / s.log(0.3, 2.5) + s.rng.random()
    sine, triangle = np.sin(2 * np.pi * turns), 4 * np.abs(turns % 1 - 0.5) - 1
    sweep = (sine, triangle, np.tanh(8 * sine))[s.rng.integers(3)]
    pitch = s.log(600, 1300) * 2 ** (s.rng.uniform(0.15, 0.5) * sweep)
    return _tone(s, pitch, s.rng.uniform(1, 2.5), 8) * gain_curve(s, 1 + 0.5 * random_drift(s, 0.5))


def alarm(s: Scene) -> np.ndarray:
    """Beeps of one steady pitch, evenly timed, alone or in groups."""
    period = s.log(0.12, 0.9)
    onsets = _onsets(s, period, 0.0, s.rng.integers(1, 5), s.rng.choice([0, 1]) * s.log(0.2, 1))
    _, progress = _progress(s, onsets, period * s.rng.uniform(0.3, 0.8))
    pitch = s.log(1000, 3000) * np.ones(len(progress))
    return _tone(s, pitch, s.rng.uniform(0.8, 2), 8) * gain_curve(s, _arc(progress, 0.05, 0.1))


def whistle(s: Scene) -> np.ndarray:
    """Whistled notes: almost pure, gliding, with vibrato and breath."""
    onsets = _onsets(s, s.log(0.4, 1.5), 0.3)
    event, progress = _progress(s, onsets, s.log(0.25, 1.5, len(onsets)))
    note = s.rng.uniform(-0.35, 0.35, (2, len(onsets)))[:, event]
    vibrato = s.log(0.002, 0.04) * np.sin(2 * np.pi * s.log(4, 8) * s.times)
    pitch = s.log(900, 2200) * 2 ** (note[0] + note[1] * np.clip(progress, 0, 1) + vibrato)
    sound = _tone(s, pitch, 3.5, 4) + s.log(0.05, 0.3) * coloured_noise(s, 800, 4000)
    return sound * gain_curve(s, _arc(progress, s.rng.uniform(0.05, 0.4), 0.5))


def bird_chirp(s: Scene) -> np.ndarray:
    """Phrases of quick chirps, each a fast sweep of the same form."""
    onsets = _onsets(s, s.log(0.06, 0.25), 0.15, s.rng.integers(2, 12), s.log(0.3, 1.5))
    event, progress = _progress(s, onsets, s.log(0.03, 0.12))
    form = s.rng.uniform(-0.6, 0.6) * progress + s.rng.uniform(-0.5, 0.5) * progress**2
    pitch = s.log(2200, 4500) * 2 ** (np.clip(form, -1, 1) + 0.15 * random_drift(s, 2))
    gains = s.log(0.3, 1, len(onsets))[event]
    return _tone(s, pitch, 2, 3) * gain_curve(s, gains * _arc(progress, 0.3, 1))


def crickets(s: Scene) -> np.ndarray:
    """Insects, one or two: a high steady tone in fast pulses, as a trill or as chirps."""
    sound = 0
    for _ in range(s.rng.integers(1, 3)):
        pulses = _arc(s.times * s.log(14, 60) % 1, 0.4, 1)
        chirp = _arc(s.times / s.log(0.25, 1.5) % 1 / s.rng.uniform(0.2, 0.7), 0.1, 0.3)
        chirp = chirp if s.rng.random() < 0.6 else 1 + 0.3 * random_drift(s, 1)
        tone = _tone(s, s.log(3000, 6000) + 40 * random_drift(s, 5), 3, 2)
        sound = sound + s.log(0.3, 1) * tone * gain_curve(s, pulses * chirp)
    return sound


def rain(s: Scene) -> np.ndarray:
    """Steady hiss of far drops, crackle of near ones."""
    hiss = coloured_noise(s, s.log(200, 2000), s.log(2500, 8000), s.rng.uniform(0, 0.6))
    drops = _crackle(s, s.rng.integers(100, 3000), s.log(300, 2000), s.log(2500, 8000))
    return hiss * gain_curve(s, 1 + 0.2 * random_drift(s, 0.5)) + s.log(0.1, 2) * drops


def wind(s: Scene) -> np.ndarray:
    """Gusts: noise that gets brighter as it swells, at no fixed pace."""
    gust = np.exp(
        s.rng.uniform(0.7, 1.6) * (random_drift(s, s.log(0.5, 2)) + 0.3 * random_drift(s, 6))
    )
    low = coloured_noise(s, 30, s.log(150, 800), s.rng.uniform(0, 0.8))
    high = coloured_noise(s, s.log(300, 1500), s.log(1000, 6000))
    return low * gain_curve(s, gust) + s.log(0.05, 0.6) * high * gain_curve(s, gust**2)


def sea_waves(s: Scene) -> np.ndarray:
    """Waves every 1.5 to 4 s: a low swell, then the hiss of the breaking crest."""
    period = s.log(1.5, 4)
    onsets = _onsets(s, period, 0.2) - s.rng.uniform(0, period)
    _, swell = _progress(s, onsets, period * 1.1)
    rise = s.rng.uniform(0.25, 0.6)
    low = coloured_noise(s, 40, s.log(300, 1500), s.rng.uniform(0, 0.6)) * gain_curve(
        s, _arc(swell, rise, 1.5)
    )
    crest = _arc(swell - 0.15, rise, s.rng.uniform(1.5, 4)) + 0.05
    return low + s.log(0.3, 2) * coloured_noise(
        s, s.log(300, 1500), s.log(2500, 8000)
    ) * gain_curve(s, crest)


def clock_tick(s: Scene) -> np.ndarray:
    """Even, short, dry clicks: tick and tock differ in strength."""
    onsets = _onsets(s, s.log(0.2, 1.0), 0.01)
    freqs, tock = s.log(s.log(1500, 3000), 7500, 8), s.log(0.3, 1)
    tick = _strike(s, onsets[::2], freqs, s.log(0.002, 0.012, 8), 0.1)
    if len(onsets) < 2:
        return tick
    return tick + tock * _strike(
        s, onsets[1::2], freqs * s.rng.uniform(0.7, 1.1), s.log(0.002, 0.015)
    )


def knock(s: Scene) -> np.ndarray:
    """Groups of 2 to 6 raps on wood or metal, then a pause."""
    onsets = _onsets(s, s.log(0.1, 0.35), 0.12, s.rng.integers(2, 7), s.log(0.5, 1.6))
    return _strike(s, onsets, s.log(s.log(150, 450), 3000, 8), s.log(0.008, 0.05, 8), 0.25)


def footsteps(s: Scene) -> np.ndarray:
    """A gait: heel, then the sole's scrape, near-even and never twice the same."""
    onsets = _onsets(s, s.log(0.28, 0.8), 0.08)
    heel = _strike(s, onsets, s.log(s.log(70, 200), 1500, 8), s.log(0.004, 0.03, 8), 0.6)
    gains = s.log(0.4, 1, len(onsets))
    event, scrape = _progress(s, onsets + s.rng.uniform(0.02, 0.1), s.log(0.05, 0.2))
    sole = coloured_noise(s, s.log(500, 1500), s.log(2500, 8000)) * gain_curve(
        s, gains[event] * _arc(scrape, 0.4, 1)
    )
    return heel + s.log(0.3, 1.5) * unit_rms(sole)


def dog_bark(s: Scene) -> np.ndarray:
    """Hoarse barks, one to four in a row: the pitch rises and falls within each."""
    onsets = _onsets(s, s.log(0.2, 0.6), 0.2, s.rng.integers(1, 5), s.log(0.3, 1.5))
    event, progress = _progress(s, onsets, s.log(0.1, 0.3))
    arch = s.rng.uniform(0.2, 0.8) * np.sin(np.pi * np.clip(progress, 0, 1))
    tone = _tone(
        s, s.log(250, 700) * 2 ** (arch + 0.1 * random_drift(s, 3)), s.rng.uniform(0.3, 1.2), 16
    )
    breath = coloured_noise(s, s.log(300, 900), s.log(1500, 5000))
    gains = s.log(0.4, 1, len(onsets))[event]
    return (tone + s.log(0.2, 1) * breath) * gain_curve(s, gains * _arc(progress, 0.15, 1))


def bell(s: Scene) -> np.ndarray:
    """Struck bell: inharmonic partials, the lower the longer."""
    onsets = _onsets(s, s.log(0.4, 3), s.rng.choice([0.02, 0.4]))
    ratios = np.array([0.5, 1, 1.2, 1.5, 2, 2.5, 2.67, 3, 4.1]) * s.log(0.93, 1.07, 9)
    return _strike(s, onsets[:6], s.log(350, 900) * ratios, s.log(0.3, 1.5) / ratios, 0.2)


def glass_break(s: Scene) -> np.ndarray:
    """A burst of noise, then shards that ring at random times and pitches."""
    burst = _onsets(s, s.log(1.5, 5), 0.3)
    shards = s.rng.integers(12, 40)
    falls = s.rng.choice(burst, shards) + s.rng.exponential(s.log(0.1, 0.4), shards)
    falls = falls[falls < s.size / s.rate - 0.01]
    falls = falls if len(falls) else burst
    _, progress = _progress(s, burst, s.log(0.1, 0.4))
    crash = coloured_noise(s, s.log(500, 2500), 8000) * gain_curve(s, _arc(progress, 0.02, 4))
    rings = _strike(s, falls, s.log(s.log(1200, 3000), 7000, 24), s.log(0.01, 0.08, 24), 1.5)
    return unit_rms(crash) + s.log(0.3, 2) * rings


def water_drops(s: Scene) -> np.ndarray:
    """Drops into water: short bubbles whose pitch rises, at uneven times."""
    onsets = _onsets(s, s.log(0.12, 0.6), 0.8)
    event, progress = _progress(s, onsets, s.log(0.03, 0.1))
    base = s.log(500, 1300) * s.log(0.6, 1.6, len(onsets))[event]
    pitch = base * 2 ** (s.rng.uniform(0.3, 1.2) * np.clip(progress, 0, 1))
    gains = s.log(0.15, 1, len(onsets))[event]
    return _tone(s, pitch, 3, 3) * gain_curve(s, gains * _arc(progress, 0.08, 2))


def thunder(s: Scene) -> np.ndarray:
    """A crack, then rolls of low rumble that die away."""
    first = s.rng.uniform(0, s.size / s.rate / 3)
    claps = np.sort(np.append(first, first + s.rng.exponential(1.2, 6)))
    event, roll = _progress(s, claps, s.log(0.8, 4, 7))
    level = _arc(roll, 0.03, 1.2) * (s.log(0.3, 1, 7) * np.exp(-0.15 * np.arange(7)))[event]
    _, crack = _progress(s, claps[:2], s.log(0.2, 1.2))
    rumble = coloured_noise(s, 25, s.log(150, 700), 0.2) * gain_curve(
        s, level * (1 + 0.6 * random_drift(s, 12))
    )
    return rumble + s.log(0.1, 1) * coloured_noise(s, 100, s.log(800, 5000)) * gain_curve(
        s, _arc(crack, 0.02, 3)
    )


def handsaw(s: Scene) -> np.ndarray:
    """Strokes to and fro: rough noise that swells with each, the two ways unlike."""
    period = s.log(0.18, 0.6)
    event, progress = _progress(s, _onsets(s, period, 0.06), period * s.rng.uniform(0.7, 0.95))
    teeth = 1 + s.rng.uniform(0, 0.8) * np.sin(2 * np.pi * s.log(30, 120) * s.times)
    level = _arc(progress, s.rng.uniform(0.2, 0.7), 0.7) * teeth
    low, high = s.log(200, 2000, 2), s.log(2500, 8000, 2)
    pull, push = (
        coloured_noise(s, low[way], high[way]) * gain_curve(s, level * (event % 2 == way))
        for way in (0, 1)
    )
    return pull + s.log(0.3, 1) * push


def applause(s: Scene) -> np.ndarray:
    """A crowd of claps, sparse to dense, that swells and tires."""
    level = gain_curve(s, np.exp(s.rng.uniform(0, 1.2) * random_drift(s, 0.4)))
    return _crackle(s, int(s.log(150, 1500)), s.log(400, 1200), s.log(1500, 4000), level)


CLASSES = (
    *(engine, helicopter, siren, alarm, whistle, bird_chirp, crickets, rain, wind, sea_waves),
    *(clock_tick, knock, footsteps, dog_bark, bell, glass_break, water_drops, thunder, handsaw),
    applause,
)
