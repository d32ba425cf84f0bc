"""A page: sections in order, table of contents, style sheets and scripts, all in one file."""

import base64
import dataclasses
import datetime
import hashlib
import importlib.metadata
import importlib.resources

from conformer_jax.reporting.markup import Markup, join, tag


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    content: Markup
    parts: tuple["Section", ...] = ()


def made() -> str:
    """By what and when, in a sentence; and that the page is all there is."""
    when = datetime.datetime.now().astimezone().strftime("%d %B %Y, %H:%M %Z").lstrip("0")
    return (
        f"Made by conformer_jax {_version()} on {when}. This page is one file and needs no network."
    )


def render(title: str, about: str, sections, parts=("page",)) -> str:
    """The whole page as HTML.

    Args:
      title: the heading.
      about: a paragraph below it.
      sections: of Section.
      parts: names of the style sheets and scripts of this folder that it takes.
    """
    body = [_render(section, f"s{i}", 2) for i, section in enumerate(sections, 1)]
    return _document(
        title,
        join(
            tag("a", "Skip to the content", href="#content", class_="skip"),
            tag(
                "div",
                tag("header", tag("h1", title), tag("p", about)),
                _navigation(sections) if len(sections) > 1 else None,
                tag("main", *body, id="content", tabindex="-1"),
                class_="page" if len(sections) > 1 else "page alone",
            ),
        ),
        parts,
    )


def _render(section, anchor, level):
    parts = (_render(p, f"{anchor}-{i}", level + 1) for i, p in enumerate(section.parts, 1))
    return tag(
        "section",
        tag(f"h{level}", section.title, id=anchor),
        section.content,
        *parts,
        aria_labelledby=anchor if level == 2 else None,  # a landmark each; not too many
    )


def _navigation(sections):
    heading = tag("h2", "Contents", id="contents")
    return tag("nav", heading, _contents(sections), aria_labelledby="contents")


def _contents(sections, anchor="s"):
    entries = []
    for i, section in enumerate(sections, 1):
        link = tag("a", section.title, href=f"#{anchor}{i}")
        below = _contents(section.parts, f"{anchor}{i}-") if section.parts else None
        entries.append(tag("li", link, below))
    return tag("ul", *entries)


def _document(title, body, parts):
    files = importlib.resources.files("conformer_jax.reporting")
    style = "".join((files / f"{name}.css").read_text("utf-8") for name in parts)
    scripts = [(files / f"{name}.js").read_text("utf-8") for name in parts]
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    # The browser itself then refuses the network, and any script but these.
    known = " ".join(f"'sha256-{digest}'" for digest in digests)
    policy = (
        "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
        f"script-src {known}"
    )
    head = join(
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Markup(style)),
    )
    scripts = [tag("script", Markup(script)) for script in scripts]
    page = tag("html", tag("head", head), tag("body", body, *scripts), lang="en")
    return f"<!doctype html>\n{page}\n"


def _version():
    try:
        return importlib.metadata.version("conformer_jax")
    except importlib.metadata.PackageNotFoundError:
        return "(a checkout)"
