#!/usr/bin/env python3
"""Compare our signal processing with SciPy's filters, in speed and in values; not part of the automatic tests.

  python3 -m venv peers && peers/bin/pip install numpy scipy wfdb
  peers/bin/python tests/peers/filter_chain.py        the shipped recordings, `meit bench dsp` in the same run

Speed: SciPy's chain alone (sosfiltfilt of high-pass 0.67 Hz, second order, and low-pass 150 Hz, fourth order, over 12 leads of
20 s in float64) against our whole analysis, and against our filters alone, which run over what the window in the middle needs.
All times are of one thread, SciPy's by time.thread_time. Prints one JSON object; exits 1 where the whole is not ten times as fast.
"""
import argparse, json, os, pathlib, statistics, subprocess, sys, time

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy
import scipy.signal
import wfdb

RATIO_MIN = 10.0


def contexts(recordings):
    """12 x 10000 samples, microvolts: each recording's ten seconds with its own end before and its own start after."""
    for header in sorted(recordings.rglob("*.hea")):
        x = wfdb.rdrecord(str(header.with_suffix(""))).p_signal.T * 1000
        x = x[:, :5000]
        yield numpy.ascontiguousarray(numpy.concatenate([x[:, 2500:], x, x[:, :2500]], axis=1))


def scipy_ms(signals, seconds):
    high = scipy.signal.butter(2, 0.67, "high", fs=500, output="sos")
    low = scipy.signal.butter(4, 150, "low", fs=500, output="sos")
    sections = numpy.vstack([high, low])
    times = []
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        for x in signals:
            at = time.thread_time()
            scipy.signal.sosfiltfilt(sections, x, axis=1)
            times.append(time.thread_time() - at)
    return statistics.mean(times) * 1000


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--recordings", type=pathlib.Path, default=root / "tests/data/ptbxl")
    a.add_argument("--meit", default=str(root / "target/release/meit"), help="command, split at spaces")
    a.add_argument("--seconds", type=float, default=5.0)
    a = a.parse_args()
    signals = list(contexts(a.recordings))
    peer = scipy_ms(signals, a.seconds)
    command = [*a.meit.split(), "bench", "dsp", "--recordings", str(a.recordings), "--seconds", str(a.seconds)]
    ours = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    ratio = peer / ours["ms_per_window"]
    print(json.dumps({
        "scipy": scipy.__version__,
        "scipy_filters_ms_per_window": round(peer, 4),
        "our_ms_per_window": round(ours["ms_per_window"], 4),
        "ratio": round(ratio, 2),
        "our_filters_ms_per_window": round(ours["filter_ms_per_window"], 4),
        "ratio_of_filters": round(peer / ours["filter_ms_per_window"], 2),
        "recordings": len(signals),
    }))
    sys.exit(0 if ratio >= RATIO_MIN else 1)


if __name__ == "__main__":
    main()
