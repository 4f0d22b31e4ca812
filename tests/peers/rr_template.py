#!/usr/bin/env python3
"""Does the beat template of `ecg::dsp::snr` take beats that change with the RR interval for noise? A figure of docs/quality-gate.md.

  cargo build --release -p ecg --example beats
  peers/bin/python tests/peers/rr_template.py --ptbxl PTBXL

The estimate in numpy (the dominant shape; gain and shift; n / (n - 1); the quietest four tenths of the phases), as it is and with one
term more: what is left of a beat follows, sample by sample, the logarithm of the RR interval before it, and n / (n - 2). Without
added noise, recordings that PTB-XL does not mark as noisy; every twelfth one in sinus rhythm. Prints medians over all leads.
"""
import argparse, json, pathlib, subprocess

import numpy
from scipy.signal import butter, sosfiltfilt

from quality_gate import database

BAND = [butter(2, 0.67, "high", fs=500, output="sos"), butter(4, 150, "low", fs=500, output="sos")]
BEATS_MIN = 5


def filtered(header):
    lines = header.read_text().split("\n")
    gains = [float(line.split()[2].split("(")[0].split("/")[0]) for line in lines[1:13]]
    samples = numpy.fromfile(header.with_suffix(".dat"), "<i2").reshape(-1, 12) / gains * 1000
    for sos in BAND:
        samples = sosfiltfilt(sos, samples, axis=0)
    return samples


def aligned(samples, peaks):
    """Beats of the dominant shape: number among the peaks, and R where they fit best."""
    scaled = samples / numpy.sqrt((samples**2).mean(0))
    qrs = lambda p: scaled[p - 40 : p + 50].ravel()
    whole = [(k, p) for k, p in enumerate(peaks) if k > 0 and 48 <= p <= len(samples) - 58]
    if len(whole) < BEATS_MIN:
        return []
    template = numpy.median([qrs(p) for _, p in whole], 0)
    fits = [(k, max((numpy.corrcoef(template, qrs(q))[0, 1], q) for q in range(p - 8, p + 9))) for k, p in whole]
    return [(k, q) for k, (r, q) in fits if r > 0.75]


def beats_of(samples, peaks, chosen):
    """Beats x samples x leads around R, NaN outside of what belongs to the beat."""
    rr = numpy.median(numpy.diff(peaks))
    before, after = int(min(0.4 * rr, 200)), int(min(0.6 * rr, 300))
    beats = numpy.full((len(chosen), before + after, samples.shape[1]), numpy.nan)
    for row, (k, p) in zip(beats, chosen):
        own, following = int(0.4 * (p - peaks[k - 1])), peaks[k + 1] - 60 if k + 1 < len(peaks) else len(samples)
        start, end = max(p - min(before, own), 0), min(p + after, max(following, p), len(samples))
        row[start - p + before : end - p + before] = samples[start:end]
    return beats


def ratio_db(beats, log_rr, with_rr):
    """Ratio of one lead."""
    there = ~numpy.isnan(beats)
    count = there.sum(0)
    template = numpy.where(there, beats, 0).sum(0) / numpy.maximum(count, 1)
    left = numpy.full_like(beats, numpy.nan)
    for beat, row, ok in zip(beats, left, there):
        known = numpy.stack([template, numpy.gradient(template)], 1)[ok]
        row[ok] = beat[ok] - known @ numpy.linalg.lstsq(known, beat[ok], rcond=None)[0]
    terms, least = (2, 4) if with_rr else (1, 2)
    for at in numpy.flatnonzero(count >= least) if with_rr else []:
        ok = there[:, at]
        off = log_rr[ok] - log_rr[ok].mean()
        left[ok, at] -= off * (off @ left[ok, at]) / max((off**2).sum(), 1e-12)
    share = count / numpy.maximum(count - terms, 1)
    used = count >= least
    power, total = numpy.nansum(left**2, 0) * share, numpy.nansum(beats[:, used] ** 2) / count[used].sum()
    blocks = [numpy.flatnonzero(used[s : s + 20]) + s for s in range(0, len(used), 20)]
    phases = sorted((power[b].sum() / count[b].sum(), count[b].sum()) for b in blocks if len(b))
    noise = counted = 0
    for mean, n in phases:
        if counted and counted + n > 0.4 * count[used].sum():
            break
        noise, counted = noise + mean * n, counted + n
    noise /= counted
    return 10 * numpy.log10((total - noise) / noise) if total > noise else numpy.nan


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--ptbxl", type=pathlib.Path, required=True)
    a.add_argument("--beats", default="target/release/examples/beats")
    a = a.parse_args()
    table = database(a.ptbxl)
    table = table[~table.marked & table.pacemaker.isna()]
    headers = {int(path.stem.split("_")[0]): path for path in sorted(a.ptbxl.glob("records500/*/*.hea"))}
    for kind, step in (("sinus", 12), ("AF", 1), ("PVC", 1)):
        chosen = [headers[i] for i in sorted(set(table.index[table.kind == kind]) & set(headers))][::step]
        told = subprocess.run([a.beats, *map(str, chosen)], capture_output=True, text=True, check=True).stdout
        found = []
        for header, line in zip(chosen, map(json.loads, told.splitlines())):
            samples, peaks = filtered(header), line["beats"]
            beats = aligned(samples, peaks)
            if len(beats) < BEATS_MIN:
                continue
            log_rr = numpy.log([peaks[k] - peaks[k - 1] for k, _ in beats])
            leads = numpy.moveaxis(beats_of(samples, peaks, beats), 2, 0)
            found.append([[ratio_db(lead, log_rr, with_rr) for with_rr in (False, True)] for lead in leads])
        found = numpy.array(found)
        plain, with_rr = numpy.nanmedian(found, (0, 1))
        gain = numpy.nanmedian(found[..., 1] - found[..., 0])
        print(f"{kind}: {len(found)} recordings, {plain:.1f} dB, with the RR interval {with_rr:.1f} dB, median change {gain:+.1f} dB")


if __name__ == "__main__":
    main()
