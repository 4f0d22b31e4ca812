#!/usr/bin/env python3
"""Fit and test the model of agent/ecg/src/dsp/reversal.rs on PTB-XL; not part of the automatic tests.

  python3 -m venv peers && peers/bin/pip install numpy pandas
  cargo build --release -p ecg --example sweep
  target/release/examples/sweep --recordings DIR > clean.jsonl
  peers/bin/python tests/peers/reversal.py --ptbxl DIR --sweep clean.jsonl [--write agent/ecg/src/dsp/reversal.csv]

Fits mean and covariance of the beat patterns of folds 1 to 8 (recordings without an electrode annotation and without pacemaker),
puts the 1 % limit on fold 9, and prints, for every swap applied to fold 9's patterns, how often any swap is suspected.
"""
import argparse, itertools, json, pathlib

import numpy
import pandas

SWAPS = {"RA/LA": None, "RA/LL": None, "LA/LL": None} | {f"V{a}/V{b}": (a, b) for a, b in itertools.combinations(range(1, 7), 2)}
SHRINK = 0.02
# degrees of freedom of the t distribution that patterns are compared under: its tails keep odd beats from looking swapped
FREEDOM = 10


def matrix(name):
    m = numpy.eye(8)
    if name == "RA/LA":
        m[:2, :2] = [[-1, 0], [-1, 1]]
    elif name == "RA/LL":
        m[:2, :2] = [[1, -1], [0, -1]]
    elif name == "LA/LL":
        m[:2, :2] = [[0, 1], [1, 0]]
    else:
        a, b = SWAPS[name]
        m[[1 + a, 1 + b]] = m[[1 + b, 1 + a]]
    return numpy.kron(numpy.eye(5), m)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--ptbxl", type=pathlib.Path, required=True)
    a.add_argument("--sweep", type=pathlib.Path, required=True)
    a.add_argument("--write", type=pathlib.Path)
    a.add_argument("--false-share", type=float, default=0.01)
    a = a.parse_args()
    table = pandas.read_csv(a.ptbxl / "ptbxl_database.csv").set_index("ecg_id")
    rows = [(int(r["record"].split("_")[0]), r["pattern"]) for r in map(json.loads, open(a.sweep, encoding="utf-8")) if r["pattern"]]
    rows = [(i, p) for i, p in rows if pandas.isna(table.electrodes_problems[i]) and pandas.isna(table.pacemaker[i])]
    fold = numpy.array([table.strat_fold[i] for i, _ in rows])
    x = numpy.array([p for _, p in rows])
    fit, test = x[fold <= 8], x[fold == 9]
    # patterns that are far out are what a swap in the data itself would be: fitted again without the outermost 2 %
    kept = fit
    for _ in range(3):
        mean, cov = kept.mean(0), numpy.cov(kept.T)
        cov += SHRINK * numpy.diag(numpy.diag(cov))
        d = numpy.einsum("ij,jk,ik->i", fit - mean, numpy.linalg.inv(cov), fit - mean)
        kept = fit[d <= numpy.quantile(d, 0.98)]
    whitening = numpy.linalg.inv(numpy.linalg.cholesky(cov))
    distance = lambda p: (((p - mean) @ whitening.T) ** 2).sum(1)
    maps = {name: matrix(name) for name in SWAPS}
    surprise = lambda p: (FREEDOM + 40) * numpy.log1p(distance(p) / FREEDOM)
    evidence = lambda p: numpy.stack([surprise(p) - surprise(p @ m.T) for m in maps.values()])
    e_fit, e_test = evidence(fit).max(0), evidence(test).max(0)
    limit = numpy.quantile(e_fit, 1 - a.false_share)
    print(f"fitted on {len(kept)} of {len(fit)}, tested on {len(test)}; limit {limit:.1f}; false on fold 9: {(e_test >= limit).mean():.2%}")
    names = list(SWAPS)
    for name, m in maps.items():
        e = evidence(test @ m.T)
        found = e.max(0) >= limit
        right = found & (e.argmax(0) == names.index(name))
        print(f"{name:6} suspected {found.mean():6.1%}  named rightly {right.mean():6.1%}")
    if a.write:
        head = f"# mean, then 40 rows of whitening: PTB-XL folds 1-8, {len(kept)} beat patterns; 1 % limit {limit:.1f}; tests/peers/reversal.py"
        lines = [",".join(f"{v:.5g}" for v in row) for row in [mean, *whitening]]
        a.write.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
