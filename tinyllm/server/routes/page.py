"""`GET /`: a page to chat with the model."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import HTMLResponse

_FILE = files("tinyllm.server") / "page.html"


def page_routes() -> APIRouter:
    """The page, which is one file."""
    routes = APIRouter()
    text = _FILE.read_text(encoding="utf-8")

    @routes.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        """A page to chat with the model."""
        return HTMLResponse(text)

    return routes
