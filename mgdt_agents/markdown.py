"""Markdown, of which cards and pages are made."""

from collections.abc import Iterable, Sequence


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table of Markdown, in whose cells "|" and "<" are escaped.

    Example:
        >>> print(markdown_table(["game", "steps"], [["Pong", 100]]))
        | game | steps |
        | --- | --- |
        | Pong | 100 |
    """
    cells = [
        [str(cell).replace("|", r"\|").replace("<", "&lt;") for cell in row]
        for row in (header, *rows)
    ]
    cells.insert(1, ["---"] * len(header))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
