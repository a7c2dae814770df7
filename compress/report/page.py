"""The report as one HTML page that needs nothing from outside: facts in, text out."""

import re
from importlib.resources import files
from typing import Any

from compress.report import charts
from compress.report.frames import panel, stored
from compress.report.sensitivity import heat
from compress.report.words import points, reach, times
from detectors.errors import ConfigError, counted

Row = dict[str, Any]

# Classes whose rows are open at once; of more, the rest is folded away.
_OPEN_CLASSES = 12
_QUOTED = re.compile(r"`([^`]*)`")
_UNITS = {"macs": "multiply-adds", "params": "parameters", "bytes": "size", "time": "time"}


def page(facts: Row) -> str:
    """The page of a run.

    Args:
        facts: as `facts.facts_of` gives them; every name in them is escaped.

    Raises:
        ConfigError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup, escape
    except ImportError:
        raise ConfigError(
            "report.html needs jinja2, which is not installed: pip install 'slimdet[report]', then "
            "`python -m compress.report RUN_FOLDER`"
        ) from None
    here = files("compress.report")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "points": points,
        "change": lambda value: points(value, sign=True),
        "share": lambda value: f"{value:.1%}".replace("%", " %"),
        "whole": lambda value: f"{100 * value:g} %",
        "amount": amount,
        "counted": counted,
        # A long name may be broken behind a dot.
        "dotted": lambda name: escape(name).replace(".", Markup(".<wbr>")),
        "code": lambda said: Markup(_QUOTED.sub(r"<code>\1</code>", str(escape(said)))),
    }
    template = environment.from_string((here / "page.html.j2").read_text(encoding="utf-8"))
    style = Markup((here / "page.css").read_text(encoding="utf-8"))
    figures = {key: Markup(value) for key, value in _figures(facts).items()}
    return template.render(
        facts=facts,
        style=style,
        figures=figures,
        stats=_stats(facts),
        panels=[panel | {"svg": Markup(panel["svg"])} for panel in _panels(facts)],
        classes=_with_figures(facts["classes"], Markup),
        open_classes=_OPEN_CLASSES,
        sizes=_with_figures(facts["sizes"], Markup),
        widths=_widths(facts["widths"], Markup),
        heat=heat(facts["sensitivity"]) if facts["sensitivity"] else [],
        pictures=_pictures(facts, Markup),
    )


def amount(value: float, kind: str) -> str:
    """A cost with its unit: "231.9 M", "31.37 G", "3.85 MB", "4.6 ms"."""
    if kind == "time":
        return f"{value:.1f} ms"
    if kind == "bytes":
        return f"{value / 1e6:.2f} MB"
    if kind == "params":
        return f"{value / 1e6:.3f} M"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.{2 if unit == 'G' else 1}f} {unit}"
    return str(value)


def _figures(facts: Row) -> dict[str, str]:
    return {"recovery": charts.recovery(facts["rounds"], facts["metric"]["label"])}


def _stats(facts: Row) -> list[Row]:
    """The four numbers below the verdict, each with what it was and what it is."""
    if facts["shown"] is None:
        return []
    first, last = facts["rounds"][0], facts["rounds"][facts["shown"]]
    rows = []
    if last["speed_up"] is not None:
        ends = (last["first_latency"]["median_ms"], last["latency"]["median_ms"])
        rows.append(
            _stat(
                "Time of a forward pass",
                times(last["speed_up"], "faster", "slower", "unchanged"),
                ends,
                "time",
            )
        )
    for kind, name, words in (
        ("bytes", "Size", ("smaller", "larger", "unchanged")),
        ("macs", "Multiply-adds", ("fewer", "more", "unchanged")),
    ):
        ends = (first["cost"][kind], last["cost"][kind])
        rows.append(_stat(name, times(ends[0] / ends[1], *words), ends, kind))
    change = last["score"]["value"] - first["score"]["value"]
    ends = (points(first["score"]["value"]), points(last["score"]["value"]))
    noise = f", noise ±{points(reach(last['difference']))}" if last["difference"] else ""
    big = f"{points(change, sign=True)} points"
    rows.append(
        {"name": facts["metric"]["label"], "big": big, "first": ends[0], "slim": ends[1], "more": noise}
    )
    return rows


def _stat(name: str, big: str, ends: tuple[float, float], kind: str) -> Row:
    return {
        "name": name,
        "big": big,
        "first": amount(ends[0], kind),
        "slim": amount(ends[1], kind),
        "more": "",
    }


def _panels(facts: Row) -> list[Row]:
    """The metric against each cost; time only where it was measured."""
    rounds = facts["rounds"]
    panels = []
    for kind, name in _UNITS.items():
        if kind == "time":
            share = [None if row["speed_up"] is None else 1 / row["speed_up"] for row in rounds]
            amounts = [row["latency"] and row["latency"]["median_ms"] for row in rounds]
        else:
            share = [row["shares"][kind] for row in rounds]
            amounts = [row["cost"][kind] for row in rounds]
        if share[0] is None:
            continue
        last = next(k for k in reversed(range(len(rounds))) if share[k] is not None and rounds[k]["score"])
        first = rounds[last]["first_latency"]["median_ms"] if kind == "time" else amounts[0]
        panels.append(
            {
                "name": name,
                "spent": f"{amount(first, kind)} → {amount(amounts[last], kind)}" if last else "",
                "svg": charts.against_cost(rounds, name.replace(" ", "-"), facts["metric"]["label"], share),
            }
        )
    return panels


def _with_figures(rows: list[Row], markup: Any) -> list[Row]:
    """Rows of classes or sizes with their dumbbells, all on the same scale."""
    values = [row[key] for row in rows for key in ("first", "slim") if row[key] is not None]
    ends = [row["first"] + row[end] for row in rows for end in ("low", "high") if row["low"] is not None]
    least, most = min([*values, *ends], default=0.0), max([*values, *ends], default=1.0)
    least, most = max(least - 0.02, 0.0), min(most + 0.02, 1.0)
    return [row | {"figure": markup(charts.dumbbell(row, least, most))} for row in rows]


def _widths(rows: list[Row], markup: Any) -> list[Row]:
    widest = max((row["first"] for row in rows), default=1)
    shown = []
    for row in rows:
        last = row["rounds"][-1] if row["rounds"] else row["first"]
        drawn = markup(charts.width_bar(row["first"], last, widest))
        shown.append(row | {"last": last, "share": last / row["first"], "figure": drawn})
    return shown


def _pictures(facts: Row, markup: Any) -> list[Row]:
    """Each picture three times: as labelled, and with what both models find."""
    shown = []
    for number, picture in enumerate((facts["pictures"] or {}).get("pictures", [])):
        needed = sum(not box["optional"] for box in picture["truth"])
        said = {"truth": f"labelled: {needed} object{'s' * (needed != 1)}"}
        for model, name in (("first", "first model"), ("slim", "slim model")):
            found, wrong = picture[model]["found"], picture[model]["wrong"]
            said[model] = f"{name}: {found} of {needed} found, {wrong} wrong"
        boxes = {"truth": picture["truth"], **{m: picture[m]["boxes"] for m in ("first", "slim")}}
        panels = [
            {
                "said": said[kind],
                "kind": kind,
                "svg": markup(panel(number, kind, picture, boxes[kind], said[kind])),
            }
            for kind in ("truth", "first", "slim")
        ]
        shown.append(picture | {"panels": panels, "stored": markup(stored(number, picture))})
    return shown
