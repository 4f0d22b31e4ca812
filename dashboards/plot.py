#!/usr/bin/env python3
"""Draws a dashboard's panels from Prometheus data to a picture, or checks that they have data.

Reads the same JSON that Grafana reads, fills the variables in, and asks Prometheus. Needs matplotlib.

    dashboards/plot.py --out docs/img/overview.png              # http://127.0.0.1:9090, the last 10 minutes
    dashboards/plot.py --check --empty "Reasons of rejection"   # fails when a query fails, or another panel has no data
"""

import argparse
import json
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
UNITS = {"s": "s", "cps": "1/s", "percentunit": "", "bytes": "MiB", "dB": "dB", "none": "", "short": "", "dateTimeFromNow": ""}


def ask(url, path, **parameters):
    query = urllib.parse.urlencode(parameters)
    try:
        with urllib.request.urlopen(f"{url}/api/v1/{path}?{query}", timeout=10) as answer:
            return json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        sys.exit(f"{parameters['query']}\n{error.read().decode()}")


def filled(expr, seconds):
    return expr.replace("$__rate_interval", "1m").replace("$__range", f"{int(seconds)}s").replace("$instance", ".*")


def label(target, metric):
    text = target["legendFormat"]
    for name, value in metric.items():
        text = text.replace("{{" + name + "}}", value)
    return text or "value"


def series(url, panel, start, end):
    """(label, times, values) of every line of a panel; times in minutes before the end."""
    lines = []
    for target in panel["targets"]:
        step = max(5, (end - start) / 120)
        expr = filled(target["expr"], end - start)
        for line in ask(url, "query_range", query=expr, start=start, end=end, step=step):
            times = [(float(t) - end) / 60 for t, _ in line["values"]]
            scale = 2**-20 if panel["fieldConfig"]["defaults"]["unit"] == "bytes" else 1
            lines.append((label(target, line["metric"]), times, [scale * float(v) for _, v in line["values"]]))
    return lines


def shown(value, unit):
    if unit == "percentunit":
        return f"{100 * value:.1f} %"
    if unit == "dateTimeFromNow":
        return f"{max(0, time.time() - value / 1000):.0f} s ago"
    return f"{value:.3g} {UNITS[unit]}".strip()


def draw(axes, panel, lines):
    unit = panel["fieldConfig"]["defaults"]["unit"]
    axes.set_title(panel["title"], loc="left", fontsize=8, fontweight="bold")
    axes.tick_params(labelsize=6)
    if panel["type"] == "table":
        axes.axis("off")
        rows = [f"{name}: {', '.join(v for k, v in sorted(m.items()) if k != '__name__')}" for name, m in lines]
        axes.text(0, 0.95, "\n".join(rows), va="top", fontsize=6, family="monospace", transform=axes.transAxes)
        return
    if not lines:
        axes.text(0.5, 0.5, "no data", ha="center", va="center", fontsize=8, color="gray", transform=axes.transAxes)
        axes.set_xticks([])
        axes.set_yticks([])
    elif panel["type"] == "stat":
        axes.axis("off")
        text = "\n".join(shown(values[-1], unit) for _, _, values in lines)
        axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=16, transform=axes.transAxes)
    elif panel["type"] == "bargauge":
        names = [name for name, _, _ in lines][::-1]
        values = [values[-1] for _, _, values in lines][::-1]
        bars = axes.barh(names, values, color="tab:green")
        axes.bar_label(bars, [shown(value, unit) for value in values], fontsize=6, padding=2)
        axes.margins(x=0.25)
    elif panel["fieldConfig"]["defaults"].get("custom", {}).get("stacking"):
        # a line that starts late is 0 before
        times = max((times for _, times, _ in lines), key=len)
        padded = [[0.0] * (len(times) - len(values)) + values for _, _, values in lines]
        axes.stackplot(times, padded, labels=[name for name, _, _ in lines], alpha=0.6)
    else:
        for name, times, values in lines:
            axes.plot(times, values, label=name, linewidth=1)
    if panel["type"] in ("timeseries", "state-timeline") and lines:
        axes.set_ylabel(UNITS[unit], fontsize=6)
        axes.set_xlabel("minutes", fontsize=5, labelpad=0)
        least = panel["fieldConfig"]["defaults"].get("min")
        if least is not None:
            # a line at the least value lies above the axis, where it can be seen
            axes.set_ylim(bottom=least - 0.03 * (axes.get_ylim()[1] - least))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=5, loc="upper left", framealpha=0.6)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090")
    parser.add_argument("--dashboard", default=HERE / "overview.json", type=Path)
    parser.add_argument("--minutes", default=10.0, type=float)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--check", action="store_true", help="fail when a panel has no data")
    parser.add_argument("--empty", default="", help="panels that may be without data, separated by commas")
    arguments = parser.parse_args()
    end = time.time()
    start = end - 60 * arguments.minutes
    dashboard = json.loads(arguments.dashboard.read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    found = []
    for panel in panels:
        if panel["type"] == "table":
            answers = [(t["legendFormat"], ask(arguments.prometheus, "query", query=t["expr"])) for t in panel["targets"]]
            found.append([(name, line["metric"]) for name, lines in answers for line in lines])
        else:
            found.append(series(arguments.prometheus, panel, start, end))
    empty = [panel["title"] for panel, lines in zip(panels, found) if not lines]
    print(f"{dashboard['title']}: {len(panels)} panels, {len(empty)} without data: {', '.join(empty) or 'none'}")
    if arguments.out:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
        figure = plt.figure(figsize=(18, rows * 0.42))
        grid = figure.add_gridspec(rows * 4, 24 * 8, left=0.01, right=0.99, top=0.97, bottom=0.01)
        for panel, lines in zip(panels, found):
            x, y, w, h = (panel["gridPos"][key] for key in "xywh")
            # room for the panel's title above and for its axis below, so that neither reaches into another cell
            left = 24 if panel["type"] == "bargauge" else 6
            draw(figure.add_subplot(grid[4 * y + 4 : 4 * (y + h) - 5, 8 * x + left : 8 * (x + w) - 1]), panel, lines)
        for row in (panel for panel in dashboard["panels"] if panel["type"] == "row"):
            y = 4 * row["gridPos"]["y"]
            axes = figure.add_subplot(grid[y : y + 4, :])
            axes.axis("off")
            axes.text(0, 0.5, row["title"], fontsize=10, color="tab:blue", va="center")
        figure.suptitle(f"{dashboard['title']}, last {arguments.minutes:g} minutes", fontsize=12, y=0.985)
        figure.savefig(arguments.out, dpi=90, bbox_inches="tight")
    unexpected = sorted(set(empty) - set(arguments.empty.split(",")))
    if arguments.check and unexpected:
        sys.exit(f"no data: {', '.join(unexpected)}")


if __name__ == "__main__":
    main()
