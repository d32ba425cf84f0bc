"""HTML and SVG by function calls: what comes from data is escaped wherever it lands."""

import html
import math

_VOID = {"br", "img", "link", "meta"}


class Markup(str):
    """A piece of HTML; any other value is text and is escaped by `tag` and `join`."""


def tag(element: str, /, *children, **attributes) -> Markup:
    """`<element attribute="...">children</element>`.

    Args:
      element: its name.
      children: Markup, or anything else as text; None is left out.
      attributes: `aria_label` is written aria-label, `class_` class; None is left out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if element in _VOID:
        return Markup(f"<{element}{written}>")
    return Markup(f"<{element}{written}>{join(*children)}</{element}>")


def join(*children) -> Markup:
    """The children one after the other."""
    return Markup(
        "".join(
            child if isinstance(child, Markup) else html.escape(str(child))
            for child in children
            if child is not None
        )
    )


def paragraphs(*texts) -> Markup:
    """A paragraph each."""
    return join(*(tag("p", text) for text in texts))


def table(caption: str, head, rows, *, words=(0,)) -> Markup:
    """A table that scrolls sideways where it is too wide; its first column heads the rows.

    Args:
      caption: what it shows, a sentence.
      head: names of the columns.
      rows: lists of cells.
      words: numbers of the columns that are not figures, which are aligned right.
    """

    def cells(row, name):
        return join(
            *(
                tag(
                    "th" if i == 0 else name,
                    cell,
                    scope="col" if name == "th" else "row" if i == 0 else None,
                    class_=None if i in words else "figure",
                )
                for i, cell in enumerate(row)
            )
        )

    body = join(*(tag("tr", cells(row, "td")) for row in rows))
    return scrolling(
        caption,
        tag(
            "table",
            tag("caption", caption),
            tag("thead", tag("tr", cells(head, "th"))),
            tag("tbody", body),
        ),
    )


def scrolling(label: str, content: Markup) -> Markup:
    """A box that scrolls sideways, by keyboard too."""
    return tag("div", content, class_="scrolling", tabindex="0", role="group", aria_label=label)


def details(summary: str, content: Markup) -> Markup:
    """Content that is shown on demand."""
    return tag("details", tag("summary", summary), content)


def percent(share) -> str:
    """A share from 0 to 1 in %."""
    return "<1\u00a0%" if 0 < share < 0.005 else f"{100 * share:.0f}\u00a0%"


def number(value) -> str:
    """A figure for reading: three significant digits, more before the point.

    None is what metrics.jsonl holds for NaN and infinity.
    """
    if value is None or not math.isfinite(value):
        return "not finite"
    value = float(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
