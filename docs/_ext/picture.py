"""The picture in README: what clients' models score, how the worst client fares, and what that costs on the wire.

python docs/_ext/picture.py     writes docs/results.svg from benchmarks/results
"""

import json
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs/results.svg"
PANELS = {
    "reviews": "Reviews of 4 domains: alike labels, few rows",
    "sst2": "SST-2, 8 clients: unlike labels, Dirichlet(0.3)",
}
METHODS = ("local", "fedit", "fedavg_loreft", "fedreft")
LOW, HIGH = 20, 100  # percent
LEFT, WIDTH, ROW, TOP = 122, 440, 26, 64
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1f2328}.s{font-size:12px;fill:#59636e}.t{font-weight:600}"
    "@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.s{fill:#9198a1}}"
)


def make_picture() -> str:
    """The SVG: a panel for each data set, a row for each method; mean and deviation over seeds, worst client, MiB."""
    height = TOP + len(PANELS) * ((len(METHODS) + 2) * ROW) + 4
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {height}" role="img" '
        'aria-label="Test accuracy of each client\'s received model by method, with the worst client and MiB sent">',
        f"<style>{_STYLE}</style>",
        '<text class="t" x="8" y="20">Test accuracy of clients\' models after 5 rounds, 3 seeds</text>',
        '<circle cx="14" cy="38" r="5" fill="#0969da"/><text class="s" x="24" y="42">mean over clients ± sd</text>',
        '<circle cx="184" cy="38" r="4.5" fill="none" stroke="#bc4c00" stroke-width="2"/>'
        '<text class="s" x="194" y="42">worst client</text>',
        f'<text class="s" x="{LEFT + WIDTH + 20}" y="42">MiB up per round</text>',
    ]
    y = TOP
    for name, title in PANELS.items():
        rows = {row["label"]: row for row in json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())["rows"]}
        parts.append(f'<text class="t" x="8" y="{y + 12}">{escape(title)}</text>')
        parts += _draw_axis(y + 38, len(METHODS))
        for i, method in enumerate(METHODS):
            parts += _draw_row(method, rows[method], y + 38 + (i + 0.5) * ROW)
        y += (len(METHODS) + 2) * ROW
    return "\n".join([*parts, "</svg>"]) + "\n"


def _draw_axis(top: float, rows: int) -> list[str]:
    lines = []
    for percent in range(LOW, HIGH + 1, 20):
        x = _scale(percent / 100)
        lines.append(f'<line x1="{x}" x2="{x}" y1="{top}" y2="{top + rows * ROW}" stroke="#8888" stroke-width="0.7"/>')
        lines.append(f'<text class="s" x="{x}" y="{top - 3}" text-anchor="middle">{percent} %</text>')
    return lines


def _draw_row(method: str, row: dict[str, Any], y: float) -> list[str]:
    score = row.get("deployed") or row["personal"]
    low, high = (_scale(score["mean"] + sign * score["sd"]) for sign in (-1, 1))
    worst, mib = _scale(row["worst_client"]["mean"]), row["bytes_up"]["mean"] / 2**20
    return [
        f'<text x="8" y="{y + 4}">{escape(method)}</text>',
        f'<line x1="{low}" x2="{high}" y1="{y}" y2="{y}" stroke="#0969da" stroke-width="2"/>',
        f'<circle cx="{_scale(score["mean"])}" cy="{y}" r="5" fill="#0969da"/>',
        f'<circle cx="{worst}" cy="{y}" r="4.5" fill="none" stroke="#bc4c00" stroke-width="2"/>',
        f'<text x="{LEFT + WIDTH + 20}" y="{y + 4}">{mib:.2f}</text>',
    ]


def _scale(fraction: float) -> float:
    return round(LEFT + WIDTH * (100 * fraction - LOW) / (HIGH - LOW), 1)


if __name__ == "__main__":
    FILE.write_text(make_picture(), encoding="utf-8")
