"""What a field of a config may be: a default and a range, which reads as words."""

import dataclasses
import math
import numbers


@dataclasses.dataclass(frozen=True)
class Within:
    """A finite number, whole where its default is.

    `least` and `most` belong to the range, `above` and `below` do not; None is no bound.
    """

    default: float
    _: dataclasses.KW_ONLY
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    def allows(self, value) -> bool:
        kind = numbers.Integral if isinstance(self.default, int) else numbers.Real
        return (
            isinstance(value, kind)
            and math.isfinite(value)
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def __str__(self):
        words = {"least": "at least", "above": "above", "most": "at most", "below": "below"}
        bounds = {words[name]: getattr(self, name) for name in words}
        said = [f"{word} {bound}" for word, bound in bounds.items() if bound is not None]
        return " and ".join(said) or "finite"


@dataclasses.dataclass(frozen=True, init=False)
class OneOf:
    """One of some words; the first is the default."""

    choices: tuple[str, ...]

    def __init__(self, *choices: str):
        object.__setattr__(self, "choices", choices)

    @property
    def default(self) -> str:
        return self.choices[0]

    def allows(self, value) -> bool:
        return value in self.choices

    def __str__(self):
        return f"one of {', '.join(self.choices)}"


@dataclasses.dataclass(frozen=True, init=False)
class Each:
    """Several numbers in one range, as many as there are or `length` of them."""

    default: tuple[float, ...]
    bounds: Within
    length: int | None

    def __init__(self, *default: float, length: int | None = None, **bounds: float):
        object.__setattr__(self, "default", default)
        object.__setattr__(self, "bounds", Within(default[0] if default else 0.0, **bounds))
        object.__setattr__(self, "length", length)

    def allows(self, value) -> bool:
        return self.length in (None, len(value)) and all(map(self.bounds.allows, value))

    def __str__(self):
        return f"{'' if self.length is None else f'{self.length} '}numbers, each {self.bounds}"


Range = Within | OneOf | Each
