#!/usr/bin/env python3
"""Memory bandwidth of a plain read: GB a second of summing an array on N threads, for comparison with `meit bench infer`.

NumPy's sum of int64 reads each element once and lets other threads run; the fastest of the runs counts. Not part of CI.

usage: read_speed.py [--megabytes 1024] [--threads 2] [--runs 5]
needs: numpy
"""
import argparse, json, time, numpy as np
from concurrent.futures import ThreadPoolExecutor


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--megabytes", type=int, default=1024); a.add_argument("--threads", type=int, default=2)
    a.add_argument("--runs", type=int, default=5)
    a = a.parse_args()
    x = np.ones(a.megabytes * 1_000_000 // 8, dtype=np.int64)
    parts = np.array_split(x, a.threads)
    best = float("inf")
    with ThreadPoolExecutor(a.threads) as pool:
        for _ in range(a.runs):
            started = time.perf_counter()
            assert sum(pool.map(lambda part: int(part.sum()), parts)) == len(x)
            best = min(best, time.perf_counter() - started)
    print(json.dumps(dict(gb_per_s=x.nbytes / best / 1e9, megabytes=a.megabytes, threads=a.threads)))


if __name__ == "__main__":
    main()
