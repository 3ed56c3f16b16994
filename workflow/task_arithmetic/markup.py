"""Markup: tables of ready strings as Markdown and as LaTeX."""

from __future__ import annotations

from dataclasses import dataclass

# Follows numbers that imported checkpoints had a part in.
IMPORTED = "‡"


@dataclass(frozen=True)
class Sheet:
    """Strings ready to be written: a title, a caption, and a table with headings."""

    title: str
    caption: str
    models: list[str]  # of each column after the first
    table: list[list[str]]  # the first row and the first column are headings


def markdown(sheets: list[Sheet]) -> str:
    """Return sheets as aligned Markdown tables, the first under a greater heading."""
    parts = []
    for number, sheet in enumerate(sheets):
        title, (corner, *heads) = sheet.title, sheet.table[0]
        if len(set(sheet.models)) == 1:
            title += f" ({sheet.models[0]})"
        else:
            heads = [f"{model}: {head}" for model, head in zip(sheet.models, heads, strict=True)]
        lines = [[corner, *heads], *sheet.table[1:]]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        padded = [
            [line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines
        ]
        padded.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
        parts += [f"{'###' if number else '##'} {title}", sheet.caption]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in padded))
    return "\n\n".join(filter(None, parts)) + "\n"


_TEX = str.maketrans({
    "%": r"\%",
    "_": r"\_",
    "&": r"\&",
    "#": r"\#",
    "±": r"$\pm$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "α": r"$\alpha$",
    "τ": r"$\tau$",
    "−": "$-$",
    "≈": r"$\approx$",
    "–": "--",
    IMPORTED: r"$\ddagger$",
    "†": r"$\dagger$",
})


def latex(name: str, sheets: list[Sheet]) -> str:
    """Return sheets as LaTeX tables with labels made from `name`; they need booktabs."""
    parts = ["% Needs \\usepackage{booktabs}."]
    for number, sheet in enumerate(sheets):
        models = list(dict.fromkeys(sheet.models))
        width = len(sheet.models) // len(models)
        spans = [(2 + i * width, 1 + (i + 1) * width) for i in range(len(models))]
        over = ["", *(rf"\multicolumn{{{width}}}{{c}}{{{model}}}" for model in models)]
        lines = [
            " & ".join(cell.translate(_TEX) for cell in line) + r" \\"
            for line in (over, *sheet.table)
        ]
        caption = f"{sheet.title}. {sheet.caption}".strip().translate(_TEX)
        parts.append(
            "\n".join([
                r"\begin{table}[t]",
                r"\centering",
                rf"\caption{{{caption}}}",
                rf"\label{{tab:{name}{f':{number}' if number else ''}}}",
                rf"\begin{{tabular}}{{l{'r' * len(sheet.models)}}}",
                r"\toprule",
                lines[0],
                " ".join(rf"\cmidrule(lr){{{first}-{last}}}" for first, last in spans),
                lines[1],
                r"\midrule",
                *lines[2:],
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
            ])
        )
    return "\n\n".join(parts) + "\n"
