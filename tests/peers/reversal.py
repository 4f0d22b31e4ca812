#!/usr/bin/env python3
"""Fit and test the models of agent/ecg/src/dsp/reversal.rs on PTB-XL; not part of the automatic tests.

  python3 -m venv peers && peers/bin/pip install numpy pandas scipy
  cargo build --release -p ecg --example sweep
  target/release/examples/sweep --recordings DIR > clean.jsonl
  peers/bin/python tests/peers/reversal.py --ptbxl DIR --sweep clean.jsonl [--write agent/ecg/src/dsp]

Fits mean and covariance of the beat patterns of folds 1 to 8 (recordings without an electrode annotation and without pacemaker), and
for LA/LL a quadratic score that tells patterns from swapped ones; prints, for every swap applied to fold 9's patterns, how often
any swap is suspected.
"""
import argparse, itertools, json, pathlib

import numpy
import pandas
from scipy.optimize import minimize

SWAPS = {"RA/LA": None, "RA/LL": None, "LA/LL": None} | {f"V{a}/V{b}": (a, b) for a, b in itertools.combinations(range(1, 7), 2)}
SHRINK = 0.02
# degrees of freedom of the t distribution that patterns are compared under: its tails keep odd beats from looking swapped
FREEDOM = 10
# the gate's limit (`reversal_evidence_min`), to which the evidence of LA/LL is scaled, and the share of recordings above it
GATE_LIMIT, LA_LL_SHARE = 17.0, 0.005
# bound of a pattern's numbers in units of their spread, and the penalty of large weights
CLIP, PENALTY = 3.0, 1e-3


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


def features(p, spread):
    q = numpy.clip(p / spread, -CLIP, CLIP)
    first, second = numpy.triu_indices(40)
    return numpy.concatenate([q, q[:, first] * q[:, second]], 1)


def la_ll(fit, fold, spread):
    """Weights of the features, scaled so that LA_LL_SHARE of the recordings, scored by weights that have not seen their fold, reach GATE_LIMIT."""
    gain = features(fit @ matrix("LA/LL").T, spread) - features(fit, spread)  # of a swap undone

    def weights(gain):
        size = numpy.sqrt((gain**2).mean(0)) + 1e-6
        x = gain / size

        def loss(w):
            z = x @ w
            return numpy.logaddexp(0, z).mean() + PENALTY * (w @ w) / 2, x.T @ (1 / (1 + numpy.exp(-z))) / len(z) + PENALTY * w
        return minimize(loss, numpy.zeros(x.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 500}).x / size
    unseen = numpy.concatenate([gain[fold == k] @ weights(gain[fold != k]) for k in range(1, 9)])
    return weights(gain) * (GATE_LIMIT / numpy.quantile(unseen, 1 - LA_LL_SHARE))


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--ptbxl", type=pathlib.Path, required=True)
    a.add_argument("--sweep", type=pathlib.Path, required=True)
    a.add_argument("--write", type=pathlib.Path)
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
    names = list(SWAPS)
    spread = fit.std(0)
    weights = la_ll(fit, fold[fold <= 8], spread)

    def evidence(p):
        e = numpy.stack([surprise(p) - surprise(p @ m.T) for m in maps.values()])
        e[names.index("LA/LL")] = (features(p @ maps["LA/LL"].T, spread) - features(p, spread)) @ weights
        return e
    limit = GATE_LIMIT
    e_fit, e_test = evidence(fit), evidence(test)
    print(f"fitted on {len(kept)} of {len(fit)}, tested on {len(test)}; limit {limit:.1f}; false on folds 1 to 8: {(e_fit.max(0) >= limit).mean():.2%}, "
          f"without LA/LL {(numpy.delete(e_fit, 2, 0).max(0) >= limit).mean():.2%}; on fold 9: {(e_test.max(0) >= limit).mean():.2%}")
    for name, m in maps.items():
        e = evidence(test @ m.T)
        found = e.max(0) >= limit
        right = found & (e.argmax(0) == names.index(name))
        print(f"{name:6} suspected {found.mean():6.1%}  named rightly {right.mean():6.1%}")
    if a.write:
        def write(name, head, rows):
            lines = [",".join(f"{v:.5g}" for v in row) for row in rows]
            (a.write / name).write_text("\n".join([f"# {head}; tests/peers/reversal.py", *lines]) + "\n", encoding="utf-8")
        write("reversal.csv", f"mean, then 40 rows of whitening: PTB-XL folds 1-8, {len(kept)} beat patterns", [mean, *whitening])
        pairs = numpy.zeros((40, 40))
        pairs[numpy.triu_indices(40)] = weights[40:]
        write("reversal_la_ll.csv", f"spread, weights, then 40 rows of weights of products: PTB-XL folds 1-8, {len(fit)} beat patterns",
              [spread, weights[:40], *pairs])


if __name__ == "__main__":
    main()
