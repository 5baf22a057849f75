"""Results of operations as the lines a person reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence


def fields(data: Mapping[str, object]) -> list[str]:
    """Nested data as indented `name: value` lines."""
    return _fields(data, "")


def _fields(data: Mapping[str, object], indent: str) -> list[str]:
    lines = []
    for name, value in data.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{name}:", *_fields(value, indent + "  ")]
        elif isinstance(value, list) and value:
            lines.append(f"{indent}{name}:")
            for item in value:
                inner = _fields(item, indent + "    ") if isinstance(item, dict) else [str(item)]
                lines += [f"{indent}  - {inner[0].strip()}", *inner[1:]]
        else:
            lines.append(f"{indent}{name}: {'none' if value in (None, [], {}) else value}")
    return lines


def table(rows: Iterable[Mapping[str, object]], columns: Sequence[str], empty: str) -> list[str]:
    """Rows below the names of their columns, aligned; `empty` if there are none."""
    cells = [[str(row.get(column, "")) for column in columns] for row in rows]
    if not cells:
        return [empty]
    cells.insert(0, list(columns))
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def printable(text: str) -> str:
    """`text` without what could steer a terminal or not be written to it; much of it comes from strangers."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", lambda found: ascii(found[0])[1:-1], text)
