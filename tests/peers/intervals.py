#!/usr/bin/env python3
"""Our intervals by the cardiologists' statements of PTB-XL; not part of the automatic tests.

  python3 -m venv peers && peers/bin/pip install numpy pandas
  cargo build --release -p ecg --example sweep
  target/release/examples/sweep --recordings PTBXL > clean.jsonl
  peers/bin/python tests/peers/intervals.py --ptbxl PTBXL --sweep clean.jsonl

PTB-XL has no interval marks, but statements that stand for limits: complete bundle branch block (QRS at least 120 ms), first-degree
block (PR above 200 ms), long QT. Prints quartiles by statement, and how many lie on the statement's side of its limit.
neurokit2 is no reference here: its wavelet delineation puts the QRS of normal recordings at 180 ms (25 recordings, median).
"""
import argparse, ast, json, pathlib

import numpy
import pandas

LIMITS = {"CLBBB": ("qrs_ms", 120), "CRBBB": ("qrs_ms", 120), "1AVB": ("pr_ms", 200), "LNGQT": ("qtc_ms", 450)}


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--ptbxl", type=pathlib.Path, required=True)
    a.add_argument("--sweep", type=pathlib.Path, required=True)
    a = a.parse_args()
    table = pandas.read_csv(a.ptbxl / "ptbxl_database.csv").set_index("ecg_id")
    codes = table.scp_codes.map(lambda text: set(ast.literal_eval(text)))
    lines = {int(line["record"].split("_")[0]): line["measurements"] for line in map(json.loads, open(a.sweep, encoding="utf-8"))}
    print("| statement | n | QRS ms | PR ms | QT ms | QTc ms | beyond its limit |\n|---|---|---|---|---|---|---|")
    for code in ("NORM", "IRBBB", *LIMITS):
        rows = [m for i, m in lines.items() if code in codes[i] and (code != "NORM" or codes[i] <= {"NORM", "SR"})]
        cells = []
        for key in ("qrs_ms", "pr_ms", "qt_ms", "qtc_ms"):
            values = [m[key] for m in rows if m[key] is not None]
            cells.append("{:.0f} [{:.0f}, {:.0f}]".format(*numpy.percentile(values, [50, 25, 75])) if values else "-")
        beyond = "-"
        if code in LIMITS:
            key, limit = LIMITS[code]
            values = [m[key] for m in rows if m[key] is not None]
            beyond = f"{sum(v >= limit for v in values)} of {len(values)} ({limit} ms)"
        print(f"| {code} | {len(rows)} | {' | '.join(cells)} | {beyond} |")


if __name__ == "__main__":
    main()
