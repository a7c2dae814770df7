"""The drops of a sensitivity sweep as an SVG: layer groups by shares, the darker the dearer."""

from collections.abc import Sequence
from html import escape
from typing import Any

from compress.sensitivity.suggest import Record

_CELL_WIDTH, _CELL_HEIGHT, _LETTER = 62, 24, 7.3
_TOP, _LEGEND = 46, 78
# Shades from no drop to the whole score lost: fill and text in light and in dark. One hue, rising in contrast
# to the page, so that the order can be seen without telling hues apart; the numbers say the same.
_SHADES = (
    ("#f3f5f8", "#1b2733", "#1d232b", "#dbe3ec"),
    ("#d5e3f1", "#1b2733", "#1f3448", "#e6eef6"),
    ("#a9c8e4", "#12202e", "#23507a", "#f2f7fb"),
    ("#6ea3d0", "#0b1520", "#3f7fb5", "#04090e"),
    ("#2f6ea6", "#ffffff", "#7db4e0", "#04090e"),
    ("#123e66", "#ffffff", "#c6e0f5", "#04090e"),
)


def heatmap(record: Record, *, name: str = "sensitivity") -> str:
    """The sweep as one `<svg>` element that stands alone or inside a page, light or dark as its reader.

    Args:
        record: what `sensitivity.json` holds.
        name: begins the ids and classes inside, so that several pictures of one page do not mix.

    Returns:
        SVG whose title and description say what it shows; each cell has a title with its numbers.
    """
    groups, ratios = record["groups"], record["ratios"]
    left = 20 + _LETTER * max(12, *(len(group["name"]) for group in groups))
    width = left + _CELL_WIDTH * len(ratios) + 108
    height = _TOP + _CELL_HEIGHT * len(groups) + _LEGEND
    title = f"What cutting each layer group costs, in {record['label']}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" '
        f'height="{height}" style="max-width:100%;height:auto" role="img" '
        f'aria-labelledby="{name}-title {name}-text" class="{name}">',
        f'<title id="{name}-title">{escape(title)}</title>',
        f'<desc id="{name}-text">{escape(described(record))}</desc>',
        f"<style>{_style(name)}</style>",
        f'<rect class="page" width="{width:.0f}" height="{height}"/>',
        f'<text x="8" y="18" class="head">{escape(title)}</text>',
        f'<text x="{left - 8:.0f}" y="38" class="axis end">channels cut</text>',
    ]
    for column, ratio in enumerate(ratios):
        x = left + _CELL_WIDTH * (column + 0.5)
        parts.append(f'<text x="{x:.0f}" y="38" class="axis mid">{ratio:.0%}</text>')
    x = left + _CELL_WIDTH * len(ratios) + 12
    parts.append(f'<text x="{x:.0f}" y="38" class="axis">suggested</text>')
    for row, group in enumerate(groups):
        parts += _row(group, row, left, record)
    return "\n".join([*parts, *_legend(record, height - _LEGEND + 18), "</svg>"]) + "\n"


def described(record: Record) -> str:
    """The picture in words, group by group."""
    lines = [f"{group['name']}: {group['words']}" for group in record["groups"]]
    return f"Layer groups in the order of execution. {'; '.join(lines)}."


def _row(group: dict[str, Any], row: int, left: float, record: Record) -> list[str]:
    y = _TOP + _CELL_HEIGHT * row
    middle = y + _CELL_HEIGHT * 0.68
    parts = [f'<text x="{left - 8:.0f}" y="{middle:.0f}" class="end">{escape(group["name"])}</text>']
    for column, cell in enumerate(group["cells"]):
        x = left + _CELL_WIDTH * column
        drop, low, high = cell["drop"]
        shade = _shade(drop, record["score"][0])
        before, after = (count * group["size"] for count in cell["channels"])
        told = (
            f"{group['name']}, {before} to {after} channels: {record['label']} {cell['score']:.3f}, drop "
            f"{drop:+.3f} ({low:+.3f} to {high:+.3f})" + (", within the noise" if cell["noise"] else "")
        )
        size = f'width="{_CELL_WIDTH - 2}" height="{_CELL_HEIGHT - 2}" rx="3"'
        parts += [
            f'<g class="s{shade}"><title>{escape(told)}</title>'
            f'<rect x="{x + 1:.0f}" y="{y + 1}" {size}/>'
            f'<text x="{x + _CELL_WIDTH / 2:.0f}" y="{middle:.0f}" class="mid">{shown(cell)}</text></g>'
        ]
    suggested = group["suggested"]
    x = left + _CELL_WIDTH * len(record["ratios"])
    # The frame holds every cut that the suggestion allows.
    allowed = sum(cell["ratio"] <= suggested for cell in group["cells"])
    if allowed:
        parts.append(
            f'<rect class="frame" x="{left + 1:.0f}" y="{y + 1}" width="{_CELL_WIDTH * allowed - 2}" '
            f'height="{_CELL_HEIGHT - 2}" rx="3"/>'
        )
    text = f"up to {suggested:.0%}" if suggested else "leave alone"
    parts.append(f'<text x="{x + 12:.0f}" y="{middle:.0f}">{text}</text>')
    return parts


def _legend(record: Record, y: int) -> list[str]:
    score = record["score"][0]
    parts = [f'<text x="8" y="{y + 14}" class="axis">from</text>']
    for shade in range(len(_SHADES)):
        x = 48 + 50 * shade
        least = score * _bounds()[shade - 1] if shade else 0.0
        text = f"{least:.2f}" if shade else "less"
        parts.append(
            f'<g class="s{shade}"><rect x="{x}" y="{y}" width="48" height="20" rx="3"/>'
            f'<text x="{x + 24}" y="{y + 14}" class="mid">{text}</text></g>'
        )
    return [
        *parts,
        f'<text x="8" y="{y + 36}" class="axis">framed: harmless so far; in brackets: within the noise; '
        "minus: scored higher</text>",
        f'<text x="8" y="{y + 52}" class="axis">{escape(record["label"])} of the whole detector '
        f"{score:.3f} on {record['count']} images of data.{record['split']}; nothing fine-tuned</text>",
    ]


def shown(cell: dict[str, Any]) -> str:
    """The drop of a cell as tables write it: in brackets within the noise."""
    text = f"{cell['drop'][0]:.3f}"
    text = "0.000" if text == "-0.000" else text
    return f"({text})" if cell["noise"] else text


def _bounds() -> Sequence[float]:
    """Where one shade ends and the next begins, as shares of the whole score."""
    return (0.02, 0.1, 0.25, 0.5, 0.75)


def _shade(drop: float, score: float) -> int:
    return sum(drop >= bound * score for bound in _bounds()) if score > 0 else 0


def _style(name: str) -> str:
    own = f".{name}"
    light = [
        f"{own} .s{k} rect{{fill:{one[0]}}}{own} .s{k} text{{fill:{one[1]}}}" for k, one in enumerate(_SHADES)
    ]
    dark = [
        f"{own} .s{k} rect{{fill:{one[2]}}}{own} .s{k} text{{fill:{one[3]}}}" for k, one in enumerate(_SHADES)
    ]
    return (
        f"{own} text{{font:12px ui-monospace,Menlo,Consolas,monospace;fill:#1b2733}}"
        f"{own} .head{{font:600 14px system-ui,sans-serif}}"
        f"{own} .axis{{font:12px system-ui,sans-serif;fill:#4a5a6a}}"
        f"{own} .mid{{text-anchor:middle}}{own} .end{{text-anchor:end}}{own} .page{{fill:#ffffff}}"
        f"{own} .frame{{fill:none;stroke:#b3541e;stroke-width:2}}{''.join(light)}"
        f"@media (prefers-color-scheme:dark){{{own} text{{fill:#e3e9f0}}{own} .axis{{fill:#a7b4c2}}"
        f"{own} .page{{fill:#12161b}}{own} .frame{{stroke:#f0a06a}}{''.join(dark)}}}"
    )
