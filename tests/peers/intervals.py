#!/usr/bin/env python3
"""Compare our intervals with neurokit2's delineation; not part of the automatic tests.

  python3 -m venv peers && peers/bin/pip install neurokit2 wfdb pandas
  cargo build --release -p ecg --example sweep
  peers/bin/python tests/peers/intervals.py --ptbxl DIR [--every 20]

neurokit2 delineates every beat of every lead (discrete wavelet method). Its QRS onset of a beat is the earliest, and its ends of
QRS and T the latest of the leads after the outer fifth on each side is cut; the value of a recording is the median over
beats. That is how global intervals are defined (earliest onset to latest end, CSE), with outliers kept out. Prints medians and
quartiles of our value minus theirs; both can be wrong: the cardiologists' marks of LUDB decide.
"""
import argparse, json, pathlib, subprocess, warnings

import neurokit2
import numpy
import wfdb

from qrs import clean_headers

warnings.filterwarnings("ignore")
KEYS = {"p": "ECG_P_Onsets", "on": "ECG_R_Onsets", "off": "ECG_R_Offsets", "t": "ECG_T_Offsets"}


def peer(header):
    record = wfdb.rdrecord(str(header.with_suffix("")))
    marks = {key: [] for key in KEYS}
    peaks = None
    for lead in range(record.n_sig):
        cleaned = neurokit2.ecg_clean(record.p_signal[:, lead], sampling_rate=record.fs)
        if peaks is None:
            second = neurokit2.ecg_clean(record.p_signal[:, 1], sampling_rate=record.fs)
            peaks = neurokit2.ecg_peaks(second, sampling_rate=record.fs)[1]["ECG_R_Peaks"]
        try:
            _, waves = neurokit2.ecg_delineate(cleaned, peaks, sampling_rate=record.fs, method="dwt")
        except (ValueError, IndexError, ZeroDivisionError, KeyError):
            continue
        for key, name in KEYS.items():
            marks[key].append(numpy.array(waves[name][: len(peaks)], dtype=float))
    if not marks["on"]:
        return None
    side = {"p": 20, "on": 20, "off": 80, "t": 80}
    at = {key: numpy.nanpercentile(numpy.stack(rows), side[key], axis=0) for key, rows in marks.items()}
    ms = lambda a, b: float(numpy.nanmedian(b - a)) * 1000 / record.fs
    bpm = 60 * record.fs / numpy.diff(peaks).mean() if len(peaks) > 1 else numpy.nan
    return {"heart_rate_bpm": bpm, "qrs_ms": ms(at["on"], at["off"]), "qt_ms": ms(at["on"], at["t"]), "pr_ms": ms(at["p"], at["on"])}


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--ptbxl", type=pathlib.Path, required=True)
    a.add_argument("--every", type=int, default=20)
    a.add_argument("--tool", default=str(root / "target/release/examples/sweep"))
    a = a.parse_args()
    headers = clean_headers(a.ptbxl, a.every)
    ids = pathlib.Path("ids.txt")
    ids.write_text("\n".join(str(int(h.stem.split("_")[0])) for h in headers), encoding="utf-8")
    out = subprocess.run([a.tool, "--recordings", str(a.ptbxl), "--ids", str(ids)], check=True, capture_output=True, text=True)
    ids.unlink()
    ours = {line["record"]: line["measurements"] for line in map(json.loads, out.stdout.splitlines())}
    differences = {key: [] for key in ("heart_rate_bpm", "qrs_ms", "qt_ms", "pr_ms")}
    missing = {key: 0 for key in differences}
    for header in headers:
        theirs = peer(header)
        if theirs is None:
            continue
        for key, values in differences.items():
            mine = ours[header.stem][key]
            if mine is None:
                missing[key] += 1
            elif numpy.isfinite(theirs[key]):
                values.append(mine - theirs[key])
    for key, values in differences.items():
        low, middle, high = numpy.percentile(values, [25, 50, 75])
        size = numpy.median(numpy.abs(values))
        print(f"{key:15} n {len(values):4}  unmeasured {missing[key]:3}  ours - theirs: quartiles {low:+.1f} {middle:+.1f} {high:+.1f}  median |d| {size:.1f}")


if __name__ == "__main__":
    main()
