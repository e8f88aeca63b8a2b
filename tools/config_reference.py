#!/usr/bin/env python
"""Write docs/configs_reference.md: every config key of this project, out of rmonet_d2/config.py.

The comments above a key are its description, and its value there is its default.
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SOURCE = ROOT / "rmonet_d2" / "config.py"
TARGET = ROOT / "docs" / "configs_reference.md"
HEAD = """\
# Config keys

Every key that this project adds to Detectron2's, and every default of Detectron2's that it changes.
`python tools/config_reference.py` writes this page from `rmonet_d2/config.py`. Keys are set in a
YAML file, or as `KEY VALUE` at the end of a command. Keys that are not here keep the meaning and
default of Detectron2's own [config reference](https://detectron2.readthedocs.io/modules/config.html).
A key without a description belongs to the one above it.
"""


def _dotted(node: ast.expr, aliases: dict[str, str]) -> str | None:
    """The key that ``cfg.A.B`` or an alias of it names; None for anything else."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in aliases:
        return None
    return ".".join([aliases[node.id], *reversed(names)]).strip(".")


def _comment_above(lines: list[str], line: int) -> str:
    """The comment that ends right above a line, counted from 1."""
    first = line - 1
    while first > 0 and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return " ".join(text.strip().lstrip("# ") for text in lines[first : line - 1])


def read_keys(source: str) -> list[tuple[str, str]]:
    """(key, description) of all keys that are assigned, in the order of the file."""
    lines, keys = source.splitlines(), []
    for function in ast.parse(source).body:
        if not isinstance(function, ast.FunctionDef):
            continue
        aliases = {"cfg": ""}
        for statement in function.body:
            if not isinstance(statement, ast.Assign):
                continue
            names = [_dotted(target, aliases) for target in statement.targets]
            value = _dotted(statement.value, aliases)
            is_node = isinstance(statement.value, ast.Call)
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    aliases[target.id] = value or next(name for name in names if name)
            if is_node or value is not None:
                continue
            comment = _comment_above(lines, statement.lineno)
            keys += [(name, comment) for name in names if name]
    return keys


def make_page(source: str) -> str:
    """The page for the text of ``rmonet_d2/config.py``."""
    from detectron2.config import get_cfg

    from rmonet_d2.config import add_rmonet_config

    detectron2, cfg = get_cfg(), get_cfg()
    add_rmonet_config(cfg)
    known = _values(detectron2)
    values = _values(cfg)
    sections: dict[str, list[str]] = {}
    for key, text in read_keys(source):
        parts = key.split(".")
        section = ".".join(parts[: 2 if parts[0] == "MODEL" and len(parts) > 2 else 1])
        section = section if len(parts) > 1 else "General"
        note = f" Detectron2's default: `{known[key]!r}`." if key in known else ""
        row = f"| `{key}` | `{values[key]!r}` | {text.replace('|', chr(92) + '|')}{note} |"
        sections.setdefault(section, []).append(row)
    pages = [HEAD]
    for section, rows in sections.items():
        pages.append(
            "\n".join([f"## {section}\n", "| key | default | |", "|---|---|---|", *rows, ""])
        )
    return "\n".join(pages)


def _values(node, prefix: str = "") -> dict:
    values = {}
    for name, value in node.items():
        if hasattr(value, "items"):
            values |= _values(value, f"{prefix}{name}.")
        else:
            values[prefix + name] = value
    return values


if __name__ == "__main__":
    TARGET.write_text(make_page(SOURCE.read_text(encoding="utf-8")), encoding="utf-8")
    print(TARGET.relative_to(ROOT))
