#!/usr/bin/env python3
"""Compare our heart rates with neurokit2's on recordings; not part of the automatic tests.

  python3 -m venv peers && peers/bin/pip install neurokit2 wfdb
  peers/bin/python tests/peers/heart_rate.py                      every recording of tests/data/ptbxl through `meit report`
  peers/bin/python tests/peers/heart_rate.py --demo drafts.jsonl  the drafts of `meit demo --json > drafts.jsonl`

A draft of the demo names its recording (`record`). neurokit2's rate is 60 over the mean RR interval in seconds, R peaks by its
default method, the median over leads II, V2 and V5. Prints one line a recording and
exits 1 when less than 95 % of them lie within 5 beats a minute. A rejected recording without a rate counts as a miss.
"""
import argparse, json, pathlib, statistics, subprocess, sys

import neurokit2
import numpy
import wfdb

LEADS = ("II", "V2", "V5")
TOLERANCE_BPM = 5.0
SHARE_MIN = 0.95


def peer_bpm(header):
    record = wfdb.rdrecord(str(header.with_suffix("")))
    rates = []
    for lead in LEADS:
        signal = record.p_signal[:, record.sig_name.index(lead)]
        clean = neurokit2.ecg_clean(signal, sampling_rate=record.fs)
        _, info = neurokit2.ecg_peaks(clean, sampling_rate=record.fs)
        if len(info["ECG_R_Peaks"]) > 1:
            rates.append(60 * record.fs / numpy.diff(info["ECG_R_Peaks"]).mean())
    return statistics.median(rates)


def reported(headers, meit):
    """(header, our rate) of every recording, by `meit report`."""
    for header in headers:
        out = subprocess.run([*meit, "report", header, "--json"], check=True, capture_output=True, text=True).stdout
        yield header, json.loads(out)["heart_rate_bpm"]


def drafted(headers, drafts):
    """(header, our rate) of every draft of the demo."""
    by_name = {header.stem: header for header in headers}
    for line in open(drafts, encoding="utf-8"):
        draft = json.loads(line)
        yield by_name[draft["record"]], draft["heart_rate_bpm"]


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--recordings", type=pathlib.Path, default=root / "tests/data/ptbxl")
    a.add_argument("--demo", metavar="DRAFTS", help="lines of `meit demo --json`")
    a.add_argument("--meit", default=str(root / "target/release/meit"), help="command, split at spaces")
    a = a.parse_args()
    headers = sorted(a.recordings.rglob("*.hea"))
    ours = drafted(headers, a.demo) if a.demo else reported(headers, a.meit.split())
    peers, near, total = {}, 0, 0
    for header, bpm in ours:
        if header not in peers:
            peers[header] = peer_bpm(header)
        ok = bpm is not None and abs(bpm - peers[header]) <= TOLERANCE_BPM
        near, total = near + ok, total + 1
        shown = "-" if bpm is None else format(bpm, ".1f")
        print(f"{header.stem}  ours {shown:>6}  neurokit2 {peers[header]:6.1f}  {'ok' if ok else 'OFF'}")
    print(f"{near} of {total} ({near / max(total, 1):.1%}) within {TOLERANCE_BPM:.0f} bpm")
    sys.exit(0 if total and near >= SHARE_MIN * total else 1)


if __name__ == "__main__":
    main()
