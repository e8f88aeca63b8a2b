"""Renders self-contained HTML pages from Jinja2 templates: no network, no other files.

Templates are the ``*.html`` files beside this module. Every one extends ``page.html``, which has
the frame and the style, and uses the macros of ``parts.html`` for tables and pictures. Values are
escaped automatically, so a file name or a config value cannot add markup to a page.
"""

import base64
import os
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_TEMPLATES = Environment(
    loader=FileSystemLoader(os.path.dirname(os.path.abspath(__file__)), encoding="utf-8"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: Any) -> str:
    """Return a page as text.

    Args:
        template: file name of the template, such as "report.html".
        **values: what the template shows; a value that the template needs and that is missing
            raises ``jinja2.UndefinedError``.
    """
    return _TEMPLATES.get_template(template).render(**values)


def write_page(path: str, text: str) -> None:
    """Write a page in UTF-8, replacing an existing file only once the new one is complete."""
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)


def data_uri(content: bytes, media_type: str = "image/png") -> str:
    """Return a ``data:`` address that holds the content itself, for ``src`` of an image."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def file_uri(path: str, media_type: str = "image/png") -> str:
    """Return :func:`data_uri` of a file.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    with open(path, "rb") as file:
        return data_uri(file.read(), media_type)
