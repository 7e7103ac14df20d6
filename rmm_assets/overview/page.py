"""Renders an overview as one self-contained HTML page: no requests, no scripts, in light or dark mode."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

from rmm_assets.overview.charts import Chart, Overview
from rmm_assets.overview.drawing import DARK, LIGHT, data_uri

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
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
img {{ display: block; width: 100%; height: auto; margin-top: .6rem; }}
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
</body>
</html>
"""


def page(overview: Overview, images: Mapping[str, str]) -> str:
    """Renders the page as HTML.

    Args:
        images: SVG by the chart's name; for a chart without one, its note says why.
    """
    as_of = f"As loaded on {overview.as_of:%d %B %Y, %H:%M} UTC." if overview.as_of else "Nothing is loaded yet."
    return _PAGE.format(
        title=escape(f"Fleet of {overview.connection}"),
        as_of=as_of,
        light=_declared(LIGHT),
        dark=_declared(DARK),
        figures="\n".join(_figure(chart, images.get(chart.name)) for chart in overview.charts),
    )


def write(html: str, file: Path) -> None:
    """Writes the page atomically, so that a reader never sees half of it.

    Raises:
        OSError: The file cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.new")
    temporary.write_text(html, encoding="utf-8")
    temporary.replace(file)


def _figure(chart: Chart, svg: str | None) -> str:
    image = f'<img src="{data_uri(svg)}" alt="{escape(chart.title)}">' if svg else ""
    texts = "".join(f"<p>{escape(text.replace('`', ''))}</p>" for text in (chart.headline, chart.note) if text)
    caption = f"<figcaption><h2>{escape(chart.title)}</h2>{texts}</figcaption>"
    return f'<figure id="{chart.name}">\n{caption}\n{image}\n</figure>'


def _declared(colours: Mapping[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())
