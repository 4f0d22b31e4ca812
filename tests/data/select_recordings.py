#!/usr/bin/env python3
"""Select the recordings of tests/data/ptbxl from PTB-XL, and copy them in its own layout.

usage: select_recordings.py PTBXL_DIR [OUT_DIR]        default OUT_DIR: tests/data/ptbxl beside this script

PTBXL_DIR holds ptbxl_database.csv, records500/ and report_en.csv (the reports in English: ecg_id, report_en, reason).
One recording is taken for each entry of WANTED, in that order, from the test fold 9, with
  - the statement at a likelihood of 80 or more (PTB-XL gives rhythm statements no likelihood: 0, so there presence counts),
  - an English report that no text rule drops (reason empty), validated by a human, that says the finding in one of the words,
  - no annotation of noise, drift or electrode problems, and no pacemaker (their reports in fold 9 are too short to keep),
  - a patient and a report that are not in yet (so that references tell recordings apart).
Of these the quietest signal wins: no contact artefact, then the least noise beside its amplitude, then the lowest ecg_id.
Standard library only.
PTB-XL 1.0.3, Wagner et al. 2020, https://doi.org/10.13026/kfzx-aw45, CC BY 4.0.
"""
import array, ast, csv, pathlib, shutil, statistics, sys

FOLD = "9"
WANTED = [  # statement, words of which the report must have one
    ("NORM", "normal ecg"), ("NORM", "rhythm. normal ecg"), ("SBRAD", "sinus bradycardia"), ("STACH", "sinus tachycardia"),
    ("SARRH", "sinus arrhythmia"), ("AFIB", "atrial fibrillation"), ("AFLT", "tachycardia"), ("PVC", "premature ventricular"),
    ("LAO/LAE", "left atrial"), ("1AVB", "first degree av block"), ("CLBBB", "left bundle branch block"),
    ("CRBBB", "right bundle branch block"),
    ("IRBBB", "incomplete right bundle branch block"), ("LAFB", "left anterior fascicular block"), ("IVCD", "intraventricular"),
    ("LVH", "left ventricular hypertrophy|lvh"), ("RAO/RAE", "right atrial"),
    ("IMI", "inferior infarct"), ("ASMI", "anteroseptal infarct|anterior infarct"), ("ILMI", "infarct"), ("INJAS", "lv strain"),
    ("ISC_", "ischaemia"), ("ISCAL", "t wave"), ("NDT", "t wave"),
]
RHYTHMS = {"SBRAD", "STACH", "SARRH", "AFIB", "AFLT"}
LIKELIHOOD_MIN = 80.0
EXCLUDED_BY = ("baseline_drift", "static_noise", "burst_noise", "electrodes_problems", "pacemaker")
LEADS = 12
RHYTHM = 1  # lead II
STEP_UV_MAX = 700  # in 2 ms; nine of ten recordings of the fold stay below, the steep QRS included


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        return reader.fieldnames, list(reader)


def write(path, fields, chosen):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(chosen)


def unrest(dat):
    """(leads with a step faster than any QRS, noise beside amplitude).

    A lead's noise is its wander (range of the medians of each second) + 20 x its median second difference. The second value is the
    larger of: the noisiest lead's noise over the leads' median range; lead II's noise over its own range (it is the rhythm strip).
    """
    samples = array.array("h", dat.read_bytes())  # format 16, 1 microvolt a unit, interleaved
    artefacts, noises, ranges = 0, [], []
    for lead in range(LEADS):
        x = samples[lead::LEADS]
        medians = [statistics.median(x[i:i + 500]) for i in range(0, len(x), 500)]
        jitter = statistics.median(abs(x[i] - 2 * x[i - 1] + x[i - 2]) for i in range(2, len(x)))
        artefacts += max(abs(x[i] - x[i - 1]) for i in range(1, len(x))) > STEP_UV_MAX
        noises.append(max(medians) - min(medians) + 20 * jitter)
        ranges.append(max(x) - min(x))
    return artefacts, max(max(noises) / statistics.median(ranges), noises[RHYTHM] / max(ranges[RHYTHM], 1))


def has(row, code):
    likelihood = ast.literal_eval(row["scp_codes"]).get(code)
    return likelihood is not None and (likelihood >= LIKELIHOOD_MIN or code in RHYTHMS)


def main():
    source = pathlib.Path(sys.argv[1])
    out = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else pathlib.Path(__file__).parent / "ptbxl"
    fields, database = rows(source / "ptbxl_database.csv")
    english_fields, english = rows(source / "report_en.csv")
    kept = {r["ecg_id"]: r for r in english if not r["reason"]}
    clean = [r for r in database
             if r["strat_fold"] == FOLD and r["ecg_id"] in kept and r["validated_by_human"] == "True"
             and not any(r[c].strip() for c in EXCLUDED_BY) and (source / (r["filename_hr"] + ".hea")).exists()]
    chosen, seen = [], set()
    for code, words in WANTED:
        says = lambda r: any(word in kept[r["ecg_id"]]["report_en"] for word in words.split("|"))
        pool = [r for r in clean if has(r, code) and says(r)
                and r["patient_id"] not in seen and kept[r["ecg_id"]]["report_en"] not in seen]
        if not pool:
            sys.exit(f"no recording left for {code}")
        best = min(pool, key=lambda r: (unrest(source / (r["filename_hr"] + ".dat")), int(r["ecg_id"])))
        chosen.append(best); seen |= {best["patient_id"], kept[best["ecg_id"]]["report_en"]}
        print(f"{code:8} {best['ecg_id']:>6} of {len(pool):3}  {best['scp_codes']}  {kept[best['ecg_id']]['report_en']}")
    chosen.sort(key=lambda r: int(r["ecg_id"]))
    shutil.rmtree(out, ignore_errors=True)
    for row in chosen:
        for suffix in (".hea", ".dat"):
            target = out / (row["filename_hr"] + suffix)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / (row["filename_hr"] + suffix), target)
    write(out / "ptbxl_database.csv", fields, chosen)
    write(out / "report_en.csv", english_fields, [kept[r["ecg_id"]] for r in chosen])
    codes = {c for r in chosen for c, likelihood in ast.literal_eval(r["scp_codes"]).items() if likelihood >= LIKELIHOOD_MIN}
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(f"{len(chosen)} recordings, {size} bytes, {len(codes)} statements of likelihood >= {LIKELIHOOD_MIN:.0f}:", *sorted(codes))


if __name__ == "__main__":
    main()
