"""Renders an overview as one self-contained HTML page, in light or dark mode.

Names from an API are inserted as text, in any script. A content security policy blocks all requests and all scripts but
the few lines that sort the list of agents.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from html import escape
from pathlib import Path

from rmm_assets.overview.charts import LISTED, Agent, Chart, Overview
from rmm_assets.overview.drawing import DARK, LIGHT

_SORT = """
for (const button of document.querySelectorAll("th button")) button.onclick = () => {
  const head = button.closest("th"), body = head.closest("table").tBodies[0];
  const up = head.ariaSort !== "ascending", column = head.cellIndex;
  const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const order = new Intl.Collator(undefined, {numeric: true}).compare;
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.ariaSort = up ? "ascending" : "descending";
  body.append(...[...body.rows].sort((a, b) => order(value(a), value(b)) * (up ? 1 : -1)));
};
"""
_HASH = base64.b64encode(hashlib.sha256(_SORT.encode()).digest()).decode()

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{hash}'">
<title>{title}</title>
<style>
:root {{ {light} --desk: #f4f6f8; }}
@media (prefers-color-scheme: dark) {{ :root {{ {dark} --desk: #0d1014; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; padding: 2rem clamp(1rem, 4vw, 3rem); background: var(--desk); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; }}
h1 {{ font-size: 1.6rem; margin: 0; }}
header p, figcaption p {{ margin: .2rem 0 0; color: var(--faint); font-size: .9rem; }}
main {{ display: grid; gap: 1.25rem; margin-top: 1.5rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 34rem), 1fr)); }}
figure {{ margin: 0; padding: 1.1rem 1.25rem; background: var(--ground); border: 1px solid var(--grid);
  border-radius: 10px; }}
h2 {{ font-size: 1.05rem; margin: 0; }}
svg {{ display: block; width: 100%; height: auto; margin-top: .6rem; }}
figure:has(table) {{ grid-column: 1 / -1; }}
.scroll {{ overflow-x: auto; margin-top: .6rem; }}
table {{ border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; padding: .3rem 1rem .3rem 0; border-top: 1px solid var(--grid); }}
th {{ border-top: 0; }}
th button {{ all: unset; cursor: pointer; color: var(--faint); font-weight: 600; }}
th button:focus-visible {{ outline: 2px solid var(--ink); }}
th[aria-sort=ascending] button::after {{ content: " ↑"; }}
th[aria-sort=descending] button::after {{ content: " ↓"; }}
td:last-child, th:last-child {{ text-align: right; padding-right: 0; }}
</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>{as_of}</p>
</header>
<main>
{figures}
</main>
<script>{sort}</script>
</body>
</html>
"""


def page(overview: Overview, images: Mapping[str, str]) -> str:
    """Renders the page as HTML.

    Args:
        images: SVG by chart name; the note of a chart without one says why.
    """
    newest = max((chart.as_of for chart in overview.charts if chart.as_of), default=None)
    figures = [_figure(chart, images.get(chart.name), newest) for chart in overview.charts]
    return _PAGE.format(
        title=escape(f"Fleet of {overview.connection}"),
        as_of=f"Last loaded on {_time(newest)}." if newest else "Nothing is loaded yet.",
        light=_declared(LIGHT),
        dark=_declared(DARK),
        figures="\n".join([*figures, _list(overview.silent)] if overview.silent else figures),
        sort=_SORT,
        hash=_HASH,
    )


def write(html: str, file: Path) -> None:
    """Writes the page atomically, so a reader never sees a partial one.

    Raises:
        OSError: The file cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.new")
    temporary.write_text(html, encoding="utf-8")
    temporary.replace(file)


def _figure(chart: Chart, svg: str | None, newest: datetime | None) -> str:
    texts = [chart.headline, chart.note, _age(chart.as_of, newest)]
    lines = "".join(f"<p>{escape(text.replace('`', ''))}</p>" for text in texts if text)
    caption = f"<figcaption><h2>{escape(chart.title)}</h2>{lines}</figcaption>"
    return f'<figure id="{chart.name}">\n{caption}\n{svg or ""}\n</figure>'


def _list(agents: Sequence[Agent]) -> str:
    rows = "\n".join(
        f"<tr><td>{escape(agent.name)}</td><td>{escape(agent.organization)}</td>"
        f'<td data-value="{agent.seen:%Y%m%d%H%M%S}">{_time(agent.seen)}</td><td>{agent.days:,.1f}</td></tr>'
        for agent in agents
    )
    heads = "".join(
        f"<th{' aria-sort=descending' if head == 'days' else ''}><button>{head}</button></th>"
        for head in ("agent", "organization", "last seen", "days")
    )
    limit = f"<p>Only the {LISTED:,} agents not seen for longest are listed.</p>" if len(agents) == LISTED else ""
    return (
        f'<figure id="agents">\n<figcaption><h2>All agents not seen lately</h2>{limit}</figcaption>\n'
        f'<div class="scroll"><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>\n</figure>'
    )


def _age(as_of: datetime | None, newest: datetime | None) -> str:
    """Returns when a chart's table was last loaded, and how much later the newest one was."""
    if as_of is None or newest is None:
        return ""
    hours = (newest - as_of) // timedelta(hours=1)
    behind = f"{hours // 24} days" if hours >= 48 else f"{hours} hour{'' if hours == 1 else 's'}"
    return f"As of {_time(as_of)}" + (f", {behind} before the newest table." if hours else ".")


def _time(at: datetime) -> str:
    return f"{at.day} {at:%B %Y, %H:%M} UTC"


def _declared(colours: Mapping[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())
