"""What a manifest lists: sounds, whole or in parts."""

from typing import NamedTuple


class Sound(NamedTuple):
    """A file that can be read."""

    name: str  # its path below the folder of the manifest
    folders: tuple[str, ...]  # on its way below the folder that was searched
    seconds: float


class Clip(NamedTuple):
    """A row: a sound or, where `end` is one, a part of it from start to end (s)."""

    sound: Sound
    labels: tuple[str, ...]
    start: float = 0.0
    end: float | None = None
    fold: str = ""
    group: str = ""  # that another manifest says

    @property
    def seconds(self):
        return self.sound.seconds if self.end is None else self.end - self.start
