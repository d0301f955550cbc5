"""Draws a bar chart of ratios as SVG: readable as text, and legible on white and on black."""

from html import escape
from pathlib import Path

_ROW, _LEFT, _WIDTH = 34, 250, 720  # px
_UNIT = 300  # px for a ratio of 1


def write(path: Path, title: str, ratios: dict[str, float]) -> None:
    """Draw one bar for each ratio, and a line at 1."""
    height = _ROW * (len(ratios) + 2)
    line = (
        f'<line x1="{_LEFT + _UNIT}" x2="{_LEFT + _UNIT}" y1="{_ROW}" y2="{height - _ROW // 2}"/>'
    )
    bars = "\n".join(
        _bar(_ROW * (row + 1), name, ratio) for row, (name, ratio) in enumerate(ratios.items())
    )
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" role="img" aria-label="{escape(title)}" '
        'font-family="system-ui, sans-serif" font-size="14" fill="#7a7a7a" stroke="none">\n'
        f'<text x="{_WIDTH / 2}" y="20" text-anchor="middle">{escape(title)}</text>\n'
        f'{bars}\n<g stroke="#7a7a7a" stroke-dasharray="3 3">{line}</g>\n</svg>\n'
    )


def _bar(top: int, name: str, ratio: float) -> str:
    colour = "#f0b90b" if name.startswith("ours") else "#9aa5b1"
    middle = top + _ROW / 2 + 5
    return (
        f'<text x="{_LEFT - 10}" y="{middle}" text-anchor="end">{escape(name)}</text>'
        f'<rect x="{_LEFT}" y="{top + 5}" width="{ratio * _UNIT:.0f}" height="{_ROW - 10}" '
        f'rx="3" fill="{colour}"/>'
        f'<text x="{_LEFT + ratio * _UNIT + 8:.0f}" y="{middle}">{ratio:.2f}</text>'
    )
