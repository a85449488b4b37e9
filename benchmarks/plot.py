"""Draws the figures of compare.py: how much longer than sdcore each peer takes, row by row.

python benchmarks/plot.py figures.json figures.svg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def plot(facts: dict[str, Any], to: Path) -> None:
    import matplotlib.pyplot as plt

    rows = facts["rows"]
    figure, panels = plt.subplots(len(rows), figsize=(7, 0.6 + 1.3 * len(rows)), squeeze=False)
    for panel, row in zip(panels[:, 0], rows, strict=True):
        names = [side["side"] for side in row["sides"]]
        medians = [side["median"] for side in row["sides"]]
        colors = ["#2a5cdc" if name.startswith("sdcore") else "#b4b8be" for name in names]
        bars = panel.barh(names, medians, color=colors)
        labels = [f"{m:.3g} s, {m / medians[0]:.2f}×" for m in medians]
        panel.bar_label(bars, labels, padding=3)
        panel.set_xlim(0, 1.3 * max(medians))
        panel.set_title(row["title"], loc="left", fontsize=10)
        panel.invert_yaxis()
        panel.spines[["top", "right", "bottom"]].set_visible(False)
        panel.xaxis.set_visible(False)
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    figure.text(0.01, 0.005, f"{versions}; {facts['isa']}", fontsize=7, color="#666")
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    figure.savefig(to)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figures", type=Path, help="what compare.py --json wrote")
    parser.add_argument("to", type=Path, help="an .svg or .png file")
    args = parser.parse_args()
    plot(json.loads(args.figures.read_text()), args.to)


if __name__ == "__main__":
    main()
