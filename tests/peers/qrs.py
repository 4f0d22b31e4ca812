#!/usr/bin/env python3
"""Sensitivity and positive predictivity of our beats; not part of the automatic tests.

  python3 -m venv peers && peers/bin/pip install neurokit2 wfdb
  cargo build --release -p ecg --example beats
  peers/bin/python tests/peers/qrs.py --mitdb DIR/100                 against the record's own annotations, whole record
  peers/bin/python tests/peers/qrs.py --ptbxl DIR [--every 20]        clean PTB-XL recordings against neurokit2 and wfdb

A beat matches a reference beat within 150 ms (EC57), each at most once. PTB-XL has no beat annotations, and no library is right
alone: neurokit2's default detector takes P waves before the end of a recording, where the last samples are held, and some
QRS twice for beats. So a reference beat is one that neurokit2 finds in at least half of the twelve leads and wfdb's XQRS in two of
II, V2 and V5; a false one is found by neither. Both libraries begin late: what lies in the first quarter of a second counts as
neither. Recordings with a noise or pacemaker annotation are left out. Prints the libraries against each other too. Exits 1 below 99.5 %.
"""
import argparse, contextlib, io, json, pathlib, subprocess, sys

import numpy
import wfdb

MATCH_S = 0.15
SHARE_MIN = 0.995
REFRACTORY_S = 0.2
BEGIN_S = 0.25
XQRS_LEADS = ("II", "V2", "V5")
BEATS = set("NLRBAaJSVrFejnE/fQ?")


def match(reference, found, rate):
    """Matched pairs: nearest first, each beat once."""
    pairs = sorted(
        (abs(r - f), i, j) for i, r in enumerate(reference) for j, f in enumerate(found) if abs(r - f) <= MATCH_S * rate
    ) if len(reference) < 200 else windowed(reference, found, rate)
    used_r, used_f = set(), set()
    for _, i, j in pairs:
        if i not in used_r and j not in used_f:
            used_r.add(i)
            used_f.add(j)
    return used_r, used_f


def windowed(reference, found, rate):
    found = numpy.asarray(found)
    pairs = []
    for i, r in enumerate(reference):
        low, high = numpy.searchsorted(found, [r - MATCH_S * rate, r + MATCH_S * rate], side="left")
        pairs += [(abs(r - found[j]), i, j) for j in range(low, min(high + 1, len(found))) if abs(r - found[j]) <= MATCH_S * rate]
    return sorted(pairs)


def ours(tool, headers):
    out = subprocess.run([tool, *map(str, headers)], check=True, capture_output=True, text=True).stdout
    return {pathlib.Path(line["record"]).stem: line["beats"] for line in map(json.loads, out.splitlines())}


def neurokit(record):
    import neurokit2

    votes = []
    for lead in range(record.n_sig):
        try:
            cleaned = neurokit2.ecg_clean(record.p_signal[:, lead], sampling_rate=record.fs)
            votes += list(neurokit2.ecg_peaks(cleaned, sampling_rate=record.fs)[1]["ECG_R_Peaks"])
        except (ValueError, IndexError, ZeroDivisionError):
            continue  # it finds nothing in this lead
    return voted(votes, record.n_sig / 2, record.fs)


def xqrs(record):
    from wfdb.processing import XQRS

    votes = []
    for lead in XQRS_LEADS:
        names = [name.upper() for name in record.sig_name]
        detector = XQRS(record.p_signal[:, names.index(lead)], record.fs)
        with contextlib.redirect_stdout(io.StringIO()):
            detector.detect(verbose=False)
        votes += list(detector.qrs_inds)
    return voted(votes, len(XQRS_LEADS) / 2, record.fs)


def voted(votes, least, rate):
    votes = sorted(votes)
    beats, cluster = [], votes[:1]
    for at in votes[1:] + [10**9]:
        if at - cluster[0] > MATCH_S * rate:
            if len(cluster) >= least and not (beats and cluster[0] - beats[-1] < REFRACTORY_S * rate):
                beats.append(int(numpy.median(cluster)))
            cluster = []
        cluster.append(at)
    return beats


def near(at, beats, rate):
    return any(abs(at - beat) <= MATCH_S * rate for beat in beats)


def clean_headers(root, every):
    import pandas

    table = pandas.read_csv(root / "ptbxl_database.csv")
    marks = ["baseline_drift", "static_noise", "burst_noise", "electrodes_problems", "pacemaker"]
    table = table[table[marks].isna().all(axis=1)]
    headers = [root / f"{name}.hea" for name in table.filename_hr]
    return [header for header in headers if header.exists()][::every]


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--mitdb", type=pathlib.Path)
    a.add_argument("--ptbxl", type=pathlib.Path)
    a.add_argument("--every", type=int, default=20)
    a.add_argument("--tool", default=str(root / "target/release/examples/beats"))
    a.add_argument("--verbose", action="store_true", help="names the recordings that differ")
    a = a.parse_args()
    true = missed = false = 0
    peers = numpy.zeros(3, int)
    if a.mitdb:
        found = ours(a.tool, [a.mitdb.with_suffix(".hea")])[a.mitdb.stem]
        marks = wfdb.rdann(str(a.mitdb), "atr")
        rate = marks.fs or 360
        end = wfdb.rdheader(str(a.mitdb)).sig_len // (10 * rate) * 10 * rate
        reference = [s for s, kind in zip(marks.sample, marks.symbol) if kind in BEATS and s < end]
        used_r, used_f = match(reference, found, rate)
        true, missed, false = len(used_r), len(reference) - len(used_r), len(found) - len(used_f)
    else:
        headers = clean_headers(a.ptbxl, a.every)
        beats = ours(a.tool, headers)
        for header in headers:
            record = wfdb.rdrecord(str(header.with_suffix("")))
            rate = record.fs
            one, other = neurokit(record), xqrs(record)
            inside = lambda beats: [at for at in beats if at >= BEGIN_S * rate]
            reference = [at for at in one if near(at, other, rate)]
            found = beats[header.stem]
            used_r, used_f = match(reference, found, rate)
            m = inside(r for i, r in enumerate(reference) if i not in used_r)
            f = inside(x for j, x in enumerate(found) if j not in used_f)
            f = [x for x in f if not near(x, one, rate) and not near(x, other, rate)]
            true, missed, false = true + len(used_r), missed + len(m), false + len(f)
            both = len(match(inside(one), inside(other), rate)[0])
            peers += numpy.array([both, len(inside(one)) - both, len(inside(other)) - both])
            if a.verbose and (m or f):
                print(f"{header.stem} missed {m} false {f}")
        print(f"{len(headers)} recordings; neurokit2 and XQRS agree on {peers[0]} beats, {peers[1]} only neurokit2, {peers[2]} only XQRS")
    sensitivity, predictivity = true / max(true + missed, 1), true / max(true + false, 1)
    print(f"matched {true}, missed {missed}, false {false}: Se {sensitivity:.4%}, +P {predictivity:.4%}")
    sys.exit(0 if min(sensitivity, predictivity) >= SHARE_MIN else 1)


if __name__ == "__main__":
    main()
