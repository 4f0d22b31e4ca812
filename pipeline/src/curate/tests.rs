//! Curation of the shipped recordings.
//!
//! Place: tests only. Invariant: recordings are read from tests/data; nothing is written outside of a temporary folder.

use super::*;
use crate::erasure::Erasures;
use crate::sources::patient_hash;

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/ptbxl")
}

fn settings() -> CurateSettings {
    CurateSettings {
        sources: vec![Source::PtbXl(shipped())],
        limit: 0,
        prompts: 128,
        seed: 7,
        ends: BTreeMap::new(),
        kafka: None,
        base: "base".to_owned(),
        reserve_bytes: 0,
    }
}

fn none() -> Erasures {
    Erasures::default()
}

fn bytes(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries
        .map(|p| {
            (
                p.file_name().unwrap().to_string_lossy().into_owned(),
                std::fs::read(&p).unwrap(),
            )
        })
        .collect()
}

#[test]
fn the_same_query_gives_the_same_bytes_and_a_second_run_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let manifest = run(&settings(), &none(), &a).unwrap();
    assert_eq!((manifest.kept, manifest.patients), (24, 24));
    assert!(manifest.labels["NORM"][&Split::Validation] > 0, "{:?}", manifest.labels);
    assert_eq!(run(&settings(), &none(), &a).unwrap(), manifest);
    run(&settings(), &none(), &b).unwrap();
    assert_eq!(bytes(&a), bytes(&b));
    let data = Dataset::open(&a).unwrap();
    let record = ecg::wfdb::read(&shipped().join("records500/00000/00020_hr.hea")).unwrap();
    let served = ecg::dsp::analyse(&record.context().unwrap(), &ecg::dsp::DspConfig::default());
    assert_eq!(
        data.ecg(0).unwrap().filtered,
        served.filtered,
        "the samples are those that the node would see"
    );
    let other = CurateSettings { seed: 8, ..settings() };
    assert!(
        run(&other, &none(), &a)
            .unwrap_err()
            .to_string()
            .contains("another query")
    );
}

#[test]
fn a_killed_run_goes_on_with_its_shards_and_comes_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
    let manifest = run(&settings(), &none(), &whole).unwrap();
    let partial = dir.path().join("killed.partial");
    let gathered = gather(&settings(), &none()).unwrap();
    prepare(&partial, &manifest.query, &gathered.candidates).unwrap();
    for file in ["00000.safetensors", "00000.jsonl", "00000.drops.json"] {
        std::fs::copy(whole.join(file), partial.join(file)).unwrap();
    }
    let written = |dir: &Path| {
        std::fs::metadata(dir.join("00000.safetensors"))
            .unwrap()
            .modified()
            .unwrap()
    };
    let before = written(&partial);
    run(&settings(), &none(), &killed).unwrap();
    assert_eq!(written(&killed), before, "a complete shard is not written again");
    assert_eq!(bytes(&killed), bytes(&whole));
}

#[test]
fn too_little_room_stops_before_anything_appears_and_later_room_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let greedy = CurateSettings {
        reserve_bytes: u64::MAX / 4,
        ..settings()
    };
    let error = run(&greedy, &none(), &out).unwrap_err().to_string();
    assert!(error.contains("bytes free"), "{error}");
    assert!(!out.exists());
    assert_eq!(run(&settings(), &none(), &out).unwrap().kept, 24);
}

#[test]
fn an_erased_patient_leaves_the_data_set_and_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    run(&settings(), &none(), &old).unwrap();
    let store = store::open(&dir.path().into()).unwrap();
    let mut erasures = Erasures::open(&store).unwrap();
    let patient = Dataset::open(&old).unwrap().samples()[3].patient_hash.clone();
    assert!(erasures.add(&patient).unwrap());
    assert!(!erasures.add(&patient).unwrap());
    assert!(erasures.add("p-1").is_err());
    let erasures = Erasures::open(&store).unwrap();
    assert_eq!(erase(&old, &erasures).unwrap(), 1);
    assert_eq!(erase(&old, &erasures).unwrap(), 0);
    let data = Dataset::open(&old).unwrap();
    assert!(data.samples().iter().all(|s| s.patient_hash != patient));
    let manifest = run(&settings(), &erasures, &new).unwrap();
    assert_eq!((manifest.kept, manifest.dropped[&Drop::Erased]), (23, 1));
    assert_eq!(manifest.samples, data.manifest().samples);
}

#[test]
fn a_patient_in_two_splits_is_refused_and_a_changed_file_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let manifest = run(&settings(), &none(), &out).unwrap();
    let mut samples = Dataset::open(&out).unwrap().samples().to_vec();
    samples[0].split = Split::Train;
    let patient = samples[0].patient_hash.clone();
    samples[1].patient_hash = patient;
    let error = Manifest::of(manifest.query, BTreeMap::new(), vec![], &samples)
        .unwrap_err()
        .to_string();
    assert!(error.contains("is in"), "{error}");
    let mut shard = std::fs::read(out.join("00000.safetensors")).unwrap();
    *shard.last_mut().unwrap() ^= 1;
    std::fs::write(out.join("00000.safetensors"), shard).unwrap();
    assert!(Dataset::open(&out).err().unwrap().to_string().contains("00000"));
}

#[test]
fn the_split_of_a_patient_is_stable_and_near_its_shares() {
    assert_eq!(
        split_of(&patient_hash("stream", "bed-01")),
        split_of(&patient_hash("stream", "bed-01"))
    );
    let count = |split| {
        (0..1000)
            .filter(|i| split_of(&patient_hash("x", &i.to_string())) == split)
            .count()
    };
    let (train, test) = (count(Split::Train), count(Split::Test));
    assert!(
        (750..850).contains(&train) && (60..140).contains(&test),
        "{train} {test}"
    );
}
