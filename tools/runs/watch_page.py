"""Runs as one HTML page that loads itself again: table and curves, without any other file."""

import html
import io
from pathlib import Path

from tools.runs.curves import NothingToDraw, group_runs
from tools.runs.live import ENDED, HEADINGS, LiveRun, cells
from tools.runs.registry import read_run

REFRESH_SECONDS = 10
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
{refresh}<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; }}
table {{ border-collapse: collapse; }}
td, th {{ padding: 0.25em 0.9em; text-align: right; border-bottom: 1px solid #ddd; }}
td:first-child, th:first-child, td:nth-child(2), th:nth-child(2) {{ text-align: left; }}
.training, .packing, .scoring, .starting {{ color: #0072B2; }}
.stopped {{ color: #D55E00; }}
svg {{ max-width: 100%; height: auto; }}
</style>
</head>
<body>
<h1>{title}</h1>
<table>
<tr>{headings}</tr>
{rows}
</table>
{picture}
</body>
</html>
"""


def row_of(run: LiveRun) -> str:
    texts = [f"<td>{html.escape(text)}</td>" for text in cells(run)]
    return f'<tr class="{run.state}">{"".join(texts)}</tr>'


def curves_as_svg(runs: list[LiveRun]) -> str:
    """The curves of all runs as an SVG picture; a sentence where there is nothing to draw yet."""
    import matplotlib

    from tools.runs.plot import STYLE, draw_curves

    logged = [run for run in map(read_run, (run.folder for run in runs)) if run is not None]
    buffer = io.StringIO()
    try:
        if not logged:
            raise NothingToDraw("no run has written a log yet")
        with matplotlib.rc_context(STYLE):
            draw_curves(group_runs(logged)).savefig(buffer, format="svg", metadata={"Date": None})
    except NothingToDraw as error:
        return f"<p>No curves yet: {html.escape(str(error))}.</p>"
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def write_page(runs: list[LiveRun], path: Path) -> None:
    """The page stands at path. Once every run has ended it does not load itself again."""
    from quantize import write_atomic

    under_way = sum(run.state not in ENDED for run in runs)
    refresh = f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">\n' if under_way else ""
    count = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    page = PAGE.format(
        refresh=refresh,
        title=f"{count}, {under_way} under way",
        headings="".join(f"<th>{heading}</th>" for heading in HEADINGS),
        rows="\n".join(map(row_of, runs)),
        picture=curves_as_svg(runs),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page.encode())


class Page:
    """A tracker that keeps the page up to date."""

    def __init__(self, path: Path):
        self.path = path

    def update(self, runs: list[LiveRun]) -> None:
        write_page(runs, self.path)

    def close(self) -> None:
        """The last page stays."""
