"""Builds pieces of HTML that several parts of a page share.

The rule of this file: `table` expects cells that are markup, and `cells` makes markup from text.
"""

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple


class Fact(NamedTuple):
    """A fact at the top of a page, such as the number of symbols; plain text."""

    name: str
    value: str
    note: str = ""


def cells(texts: Iterable[str]) -> list[str]:
    """Escape texts, so that they can be cells of a `table`."""
    return [escape(text) for text in texts]


def table(
    title: str, head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()
) -> str:
    """Build a table; a table without rows becomes the paragraph "None.".

    Args:
        title: The name of the table for screen readers.
        head: The titles of the columns, as markup.
        rows: The cells of each row, as markup.
        numbers: The indices of the columns that contain numbers.
    """
    kinds = [' class="n"' if i in numbers else "" for i in range(len(head))]
    titles = "".join(f'<th scope="col"{k}>{c}</th>' for c, k in zip(head, kinds, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{k}>{c}</td>" for c, k in zip(row, kinds, strict=True)) + "</tr>"
        for row in rows
    )
    if not body:
        return "<p>None.</p>"
    # If the table is wider than the screen, only the table scrolls, and not the page. `tabindex`
    # lets the keyboard scroll it.
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}">'
        f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def facts(values: Iterable[Fact]) -> str:
    """Build the content of a description list (``<dl>``)."""
    return "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
        + (f'<dd class="note">{escape(note)}</dd>' if note else "")
        + "</div>"
        for name, value, note in values
    )
