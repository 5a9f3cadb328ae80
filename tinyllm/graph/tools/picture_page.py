"""A picture of a graph as one page: the SVG with details of what is pointed at, and a table; no outside address."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from tinyllm.graph.tools.graph_data import COLUMNS
from tinyllm.graph.tools.picture_svg import Caption

TEMPLATE = "picture_page.html.jinja"


def html(picture: str, caption: Caption, rows: list[dict[str, Any]]) -> str:
    """The page's text. picture: of `svg`. rows: of `rows`."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8"))
    columns = [name for name in COLUMNS if any(row[name] for row in rows)]
    return page.render(picture=picture, caption=caption, rows=rows, columns=columns)
