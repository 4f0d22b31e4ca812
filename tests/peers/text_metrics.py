#!/usr/bin/env python3
"""Score the same pairs with the Python libraries and with meit-pipeline score: how far they differ, and how much faster it is.

usage: text_metrics.py MEIT_PIPELINE PAIRS.tsv [--pairs 10000] [--wordnet DIR] [--ratio-min 50]

The pairs of the file are drawn at random until there are enough (seed 1), each hypothesis with any reference of the file, so
that few pairs are equal. Python's time is that of the scoring calls alone, without imports; ours is the whole process with
reading, writing and WordNet. Fails when a value differs by more than 1e-6 or the ratio is below --ratio-min.
needs: pycocoevalcap, nltk, rouge-score
"""
import argparse, json, random, re, subprocess, sys, tempfile, time

sys.path.insert(0, __file__.rsplit("/", 2)[0] + "/golden")


class NoSynonyms:
    def synsets(self, word): return []


def python_scores(pairs, wordnet):
    from nltk.translate.meteor_score import meteor_score
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider_scorer import CiderScorer
    from pycocoevalcap.rouge.rouge import Rouge
    from rouge_score.rouge_scorer import RougeScorer
    wn = None
    if wordnet:
        import export_metrics
        export_metrics.wordnet(wordnet)
        from nltk.corpus import wordnet as wn
        wn.synsets("heart")  # loads the files outside the measured time
    times, out = {}, {}

    def timed(name, call):
        start = time.perf_counter(); out.update(call()); times[name] = time.perf_counter() - start

    coco = lambda s: " ".join(s.replace(".", " .").split())
    gts, res = {i: [coco(r)] for i, (h, r) in enumerate(pairs)}, {i: [coco(h)] for i, (h, r) in enumerate(pairs)}
    timed("bleu", lambda: {f"bleu{i + 1}": b for i, b in enumerate(Bleu(4).compute_score(gts, res, verbose=0)[0])})
    timed("rouge_l", lambda: {"rouge_l": float(Rouge().compute_score(gts, res)[0])})

    def cider():
        scorer = CiderScorer(n=4, sigma=6.0)
        for i in gts: scorer += (res[i][0], gts[i])
        return {"cider_d": float(scorer.compute_score()[0])}
    timed("cider_d", cider)

    def rouge():
        scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
        scores = [scorer.score(r, h) for h, r in pairs]
        return {k + "_f": sum(s[k].fmeasure for s in scores) / len(scores) for k in ("rouge1", "rouge2", "rougeL")}
    timed("rouge", rouge)
    tok = lambda s: re.findall(r"\w+|[^\w\s]", s)
    for name, source in [("meteor_stem", NoSynonyms())] + ([("meteor", wn)] if wn else []):
        timed(name, lambda: {name: sum(meteor_score([tok(r)], tok(h), wordnet=source) for h, r in pairs) / len(pairs)})
    return out, times


def main():
    a = argparse.ArgumentParser()
    a.add_argument("program"); a.add_argument("file"); a.add_argument("--pairs", type=int, default=10_000)
    a.add_argument("--wordnet"); a.add_argument("--ratio-min", type=float, default=50)
    a = a.parse_args()
    lines = [line.rstrip("\n").lower().split("\t") for line in open(a.file)]
    rng = random.Random(1)
    pairs = [(rng.choice(lines)[0], rng.choice(lines)[1]) for _ in range(a.pairs)]
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as f:
        f.writelines(f"{h}\t{r}\n" for h, r in pairs); f.flush()
        command = [a.program, "score", "--pairs", f.name, "--json"] + (["--wordnet", a.wordnet] if a.wordnet else [])
        runs = []
        for _ in range(3):
            start = time.perf_counter()
            ours = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            runs.append(time.perf_counter() - start)
    theirs, times = python_scores(pairs, a.wordnet)
    far = {k: (ours[k], v) for k, v in theirs.items() if abs(ours[k] - v) > 1e-6}
    total, best = sum(times.values()), min(runs)
    print(json.dumps(dict(pairs=len(pairs), python_s={k: round(v, 2) for k, v in times.items()}, python_total_s=round(total, 2),
                          ours_s=[round(r, 3) for r in runs], ratio=round(total / best, 1), differ=far)))
    if far or total / best < a.ratio_min: sys.exit(1)


if __name__ == "__main__":
    main()
