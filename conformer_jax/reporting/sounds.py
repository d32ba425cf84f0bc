"""A page of sounds before anything is trained: figures, classes, examples to see and to hear."""

from typing import NamedTuple

import numpy as np

from conformer_jax.reporting import document, media
from conformer_jax.reporting.markup import (
    Markup,
    details,
    number,
    paragraphs,
    scrolling,
    table,
    tag,
)


class Example(NamedTuple):
    """A clip to show: float32 [n] at `rate` Hz."""

    name: str
    audio: np.ndarray
    rate: int


def render(title, figures: str, classes, examples: dict, lists: dict, features) -> str:
    """The page as HTML.

    Args:
      title: of the page.
      figures: lines of text, as the command prints them.
      classes: rows (name, clips, hours, dB).
      examples: list of Examples by class.
      lists: rows of text to look through, by heading: pairs of copies, what cannot be read.
      features: config.features, whose sample rate the examples have.
    """
    rows = [[n, count, number(hours), f"{level:.0f}"] for n, count, hours, level in classes]
    head = ["class", "clips", "hours", "loudness, dB"]
    sections = [
        document.Section("Figures", scrolling("Figures", tag("pre", figures))),
        document.Section("Classes", table("Clips and sound of each class.", head, rows)),
    ]
    for heading, found in lists.items():
        listed = table(f"{heading}.", ["clip", ""], found, words=(0, 1))
        shown = details(f"{len(found)}", listed) if found else tag("p", "None.")
        sections.append(document.Section(heading, shown))
    parts = tuple(document.Section(name, _gallery(of, features)) for name, of in examples.items())
    about = paragraphs("A few of each class, chosen evenly; of a long recording its middle.")
    sections.append(document.Section("Examples", about, parts))
    return document.render(title, document.made(), sections)


def _gallery(examples, features) -> Markup:
    pictures = media.spectrograms(features, [one.audio for one in examples])
    return tag("ol", *map(_card, examples, pictures), class_="mistakes")


def _card(one, picture):
    seconds = f"{len(one.audio) / one.rate:.1f} s"
    return tag(
        "li",
        tag(
            "div",
            tag("img", src=picture, alt=f"Log-mel spectrogram of {one.name}, {seconds}"),
            tag("span", seconds, class_="end"),
            class_="spectrogram",
        ),
        tag(
            "audio",
            src=media.flac(one.audio, one.rate),
            controls="",
            preload="metadata",
            aria_label=f"Sound of {one.name}",
        ),
        tag("p", tag("code", one.name), class_="id"),
    )
