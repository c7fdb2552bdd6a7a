"""Draw the figures of bench/scale.py over the number of runs that wait: bench/plots/scale.svg.

.venv/bin/python -m pip install matplotlib
.venv/bin/python bench/plot.py
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import report

PLOTS = Path(__file__).parent / "plots"
PANELS = {  # metric: its title, and the goal
    "rest [ms/s]": ("at rest: CPU, ms a second", 10.0),
    "one [ms]": ("an event for one run → its task's row, ms", None),
    "one, CPU [ms]": ("the same: CPU, ms", 5.0),
}


def main() -> Path:
    """Draw what the newest result file has."""
    found = json.loads((report.RESULTS / "scale.json").read_text())["found"]
    runs = [int(number) for number in found]
    figure, panels = plt.subplots(1, len(PANELS), figsize=(4 * len(PANELS), 3), layout="constrained")
    for panel, (metric, (title, goal)) in zip(panels, PANELS.items(), strict=True):
        panel.plot(runs, [report.median(of[metric]) for of in found.values()], marker="o", label="median")
        if goal is not None:
            panel.axhline(goal, linestyle="--", color="gray", label="goal")
            panel.legend()
        panel.set_xscale("log")
        panel.set_ylim(bottom=0)
        panel.set_xlabel("runs that wait")
        panel.set_title(title, fontsize=10)
    PLOTS.mkdir(exist_ok=True)
    figure.savefig(PLOTS / "scale.svg", metadata={"Date": None})
    return PLOTS / "scale.svg"


if __name__ == "__main__":
    print(main())
