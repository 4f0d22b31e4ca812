#!/usr/bin/env python3
"""Calibrate and test the quality gate on PTB-XL with nstdb noise: the tables and plots of docs/quality-gate.md.

  python3 -m venv peers && peers/bin/pip install numpy pandas matplotlib
  cargo build --release -p ecg --example sweep
  target/release/examples/sweep --recordings PTBXL > clean.jsonl
  target/release/examples/sweep --recordings PTBXL --noise NSTDB --mix em:6,em:0,em:-6,ma:6,ma:0,ma:-6,bw:0 > mixed.jsonl
  target/release/examples/sweep --recordings PTBXL --noise NSTDB --in-band --mix em:24,em:18,em:12,em:6,em:0,em:-6,ma:18,... > band.jsonl
  peers/bin/python tests/peers/quality_gate.py --ptbxl PTBXL --clean clean.jsonl --mixed mixed.jsonl --band band.jsonl --out docs/img

Fits on folds 1 to 8, reports on fold 9. `--fit` prints the best limits by a grid search; without it the gate's own decisions count.
"""
import argparse, ast, itertools, json, pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy
import pandas

MARKS = ["baseline_drift", "static_noise", "burst_noise", "electrodes_problems"]
HARD = {"flat", "saturated", "non_finite", "lead_off", "gap", "burst"}


def load(path, table):
    rows = []
    for line in map(json.loads, open(path, encoding="utf-8")):
        ratios = [-99.0 if q["snr_db"] is None else q["snr_db"] for q in line["quality"]]
        hard = [bool(HARD & set(q["flags"])) or q["mains_residual_uv"] > 50 for q in line["quality"]]
        m = line["measurements"]
        rows.append({
            "id": int(line["record"].split("_")[0]), "noise": line["noise"], "db": line["db"], "decision": line["decision"],
            "reasons": line["reasons"], "snr": ratios, "hard": hard, "true": line["true_db"],
            "median": sorted(ratios)[6], "agreement": m["beat_agreement"] or 0.0, "bpm": m["heart_rate_bpm"],
        })
    frame = pandas.DataFrame(rows)
    return frame.join(table[["strat_fold", "kind", "marked", "codes", *MARKS, "pacemaker"]], on="id")


def database(root):
    table = pandas.read_csv(root / "ptbxl_database.csv").set_index("ecg_id")
    table["codes"] = table.scp_codes.map(lambda text: set(ast.literal_eval(text)))
    kind = lambda codes: next((k for k, names in KINDS.items() if codes & names), "other")
    table["kind"] = table.codes.map(kind)
    table["marked"] = table[MARKS].notna().any(axis=1)
    return table


KINDS = {"AF": {"AFIB", "AFLT"}, "PVC": {"PVC", "BIGU", "TRIGU"}, "tachycardia": {"STACH", "SVTAC", "PSVT"}, "sinus": {"SR", "NORM", "SBRAD", "SARRH"}}


def rejects(frame, limits):
    lead_min, median_min, agreement_min = limits
    usable = [sum(s >= lead_min and not h for s, h in zip(ss, hh)) for ss, hh in zip(frame.snr, frame.hard)]
    return (numpy.array(usable) < 8) | (frame["median"] < median_min).values | (frame.agreement < agreement_min).values


def rates(bad_rejected, good_rejected):
    n_bad, n_good = len(bad_rejected), len(good_rejected)
    se, sp = bad_rejected.mean(), 1 - good_rejected.mean()
    return f"accuracy {(bad_rejected.sum() + (~good_rejected).sum()) / (n_bad + n_good):.3f}, sensitivity {se:.3f} ({n_bad} noisy), specificity {sp:.3f} ({n_good} clean)"


def fit(clean, mixed):
    good, bad = clean[(clean.strat_fold <= 8) & ~clean.marked], mixed[(mixed.strat_fold <= 8) & mixed.noise.isin(["em", "ma"]) & (mixed.db <= 0)]
    careful = good[good.kind.isin(["AF", "PVC", "tachycardia"])]
    results = []
    for limits in itertools.product([-3, 0, 2, 3, 4, 5], [3, 5, 6, 7, 8, 9, 10], [0.3, 0.5, 0.6, 0.7]):
        b, g, c = rejects(bad, limits), rejects(good, limits), rejects(careful, limits)
        # clean and noisy weigh the same
        results.append(((b.mean() + 1 - g.mean()) / 2, limits, b.mean(), g.mean(), c.mean()))
    for balanced, limits, b, g, c in sorted(results, reverse=True, key=lambda r: r[0])[:12]:
        print(f"lead {limits[0]:3} dB median {limits[1]:3} dB agreement {limits[2]:.1f}: balanced {balanced:.4f}, noisy rejected {b:.3f}, clean rejected {g:.4f}, of AF PVC tachycardia {c:.4f}")


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("ptbxl", "clean", "mixed", "band", "out"):
        a.add_argument(f"--{name}", type=pathlib.Path)
    a.add_argument("--fit", action="store_true")
    a = a.parse_args()
    table = database(a.ptbxl)
    clean, mixed = load(a.clean, table), load(a.mixed, table)
    clean, mixed = clean[clean.pacemaker.isna()], mixed[mixed.pacemaker.isna()]
    if a.fit:
        fit(clean, mixed)
    report(clean, mixed)
    band = load(a.band, table) if a.band else None
    if band is not None:
        ratios(band, clean)
    if a.out:
        a.out.mkdir(parents=True, exist_ok=True)
        plots(clean, mixed, band, a.out)


def report(clean, mixed):
    for name, folds in (("folds 1-8", clean.strat_fold <= 8), ("fold 9", clean.strat_fold == 9)):
        good = clean[folds & ~clean.marked]
        noisy = mixed[(mixed.strat_fold.between(1, 8) if name != "fold 9" else mixed.strat_fold == 9)]
        bad = noisy[noisy.noise.isin(["em", "ma"]) & (noisy.db <= 0)]
        print(f"## {name}: clean against em, ma at 0 and -6 dB: {rates((bad.decision == 'reject').values, (good.decision == 'reject').values)}")
        print("| recordings | n | accept | marginal | reject |\n|---|---|---|---|---|")
        lines = [(f"clean, {kind}", good[good.kind == kind]) for kind in ("sinus", "AF", "PVC", "tachycardia", "other")]
        marks = clean[folds]
        lines += [(f"marked {mark}", marks[marks[mark].notna()]) for mark in MARKS]
        lines += [(f"{kind} {db:g} dB", g) for (kind, db), g in noisy.groupby(["noise", "db"])]
        for label, g in lines:
            if len(g):
                share = [f"{(g.decision == d).mean():.1%}" for d in ("accept", "marginal", "reject")]
                print(f"| {label} | {len(g)} | {' | '.join(share)} |")
        reasons = good[good.decision != "accept"].reasons.explode().value_counts()
        print("reasons of clean that are not accepted:", ", ".join(f"{k} {v}" for k, v in reasons.items()))


def ratios(band, clean):
    print("## ratio read minus true, in-band mixes of unmarked recordings: median, share within 3 dB, share unknown; then minus what the")
    print("## mixed noise and the recording's own, as read before the mix, come to together: median, share within 3 dB")
    band = band[~band.marked].join(clean.set_index("id").snr.rename("own"), on="id")
    band = band[band.own.notna()]
    print("| rhythm | noise | " + " | ".join(f"{db:g} dB" for db in sorted(band.db.unique())) + " |")
    print("|---|---|" + "---|" * band.db.nunique())
    for (kind, noise), g in band.groupby(["kind", "noise"]):
        cells = []
        for db, h in g.groupby("db"):
            read, true = numpy.array(h.snr.tolist()), numpy.array([[numpy.nan if v is None else v for v in row] for row in h.true])
            own = numpy.array(h.own.tolist())
            known = read > -90
            d = (read - true)[known]
            both = (read + 10 * numpy.log10(10 ** (-true / 10) + 10 ** (-own / 10)))[known & (own > -90)]
            cells.append(f"{numpy.median(d):+.1f}, {(abs(d) <= 3).mean():.0%}, {1 - known.mean():.0%}; {numpy.median(both):+.1f}, {(abs(both) <= 3).mean():.0%}" if len(d) else "-")
        print(f"| {kind} | {noise} | {' | '.join(cells)} |")


def plots(clean, mixed, band, out):
    good = clean[~clean.marked & (clean.strat_fold == 9)]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), constrained_layout=True)
    bins = numpy.arange(-6, 36, 1.5)
    for axis, noise in zip(axes, ("em", "ma")):
        axis.hist(good["median"].clip(-5), bins, alpha=0.6, label="clean", density=True)
        for db in (6, 0, -6):
            g = mixed[(mixed.noise == noise) & (mixed.db == db) & (mixed.strat_fold == 9)]
            axis.hist(g["median"].clip(-5), bins, histtype="step", linewidth=1.5, label=f"{noise} {db:g} dB", density=True)
        axis.set_xlabel("median ratio of the leads, dB (unknown at -5)")
        axis.legend(frameon=False)
    axes[0].set_ylabel("density, fold 9")
    figure.savefig(out / "quality-gate-ratio.png", dpi=110)
    figure, axis = plt.subplots(figsize=(5.2, 3.6), constrained_layout=True)
    for noise in ("em", "ma"):
        bad = mixed[(mixed.noise == noise) & (mixed.db <= 0) & (mixed.strat_fold == 9)]["median"].values
        limits = numpy.unique(numpy.concatenate([bad, good["median"].values]))
        axis.plot([(good["median"].values < t).mean() for t in limits], [(bad < t).mean() for t in limits], label=f"{noise} 0 and -6 dB")
    axis.set(xlim=(0, 0.2), ylim=(0.6, 1.0), xlabel="clean rejected", ylabel="noisy rejected", title="limit on the median ratio, fold 9")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    figure.savefig(out / "quality-gate-roc.png", dpi=110)
    if band is None:
        return
    band = band[~band.marked]
    figure, axes = plt.subplots(1, 4, figsize=(12, 3.3), sharey=True, constrained_layout=True)
    for axis, kind in zip(axes, ("sinus", "AF", "PVC", "tachycardia")):
        for noise, colour in (("em", "C0"), ("ma", "C1"), ("bw", "C2")):
            g = band[(band.kind == kind) & (band.noise == noise)]
            if not len(g):
                continue
            dbs = sorted(g.db.unique())
            read = [numpy.concatenate([[v for v in row if v > -90] for row in g[g.db == db].snr]) for db in dbs]
            shown = [(db, numpy.percentile(v, [25, 50, 75])) for db, v in zip(dbs, read) if len(v) > 5]
            axis.plot([d for d, _ in shown], [q[1] for _, q in shown], "o-", color=colour, markersize=3, label=noise)
            axis.fill_between([d for d, _ in shown], [q[0] for _, q in shown], [q[2] for _, q in shown], color=colour, alpha=0.15)
        axis.plot([-6, 24], [-6, 24], "k:", linewidth=1)
        axis.set(title=kind, xlabel="true ratio, dB")
    axes[0].set_ylabel("read, dB (quartiles)")
    axes[0].legend(frameon=False)
    figure.savefig(out / "snr-read-against-true.png", dpi=110)


if __name__ == "__main__":
    main()
