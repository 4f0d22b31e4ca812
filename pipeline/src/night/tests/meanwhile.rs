//! What happens to a run while it is stopped: another champion, an erasure, another job.
//!
//! Place: under the job's tests. Invariant: as there.

use super::*;

/// A run that stopped after its curation.
fn stopped(settings: &PipelineSection, name: &str) {
    let night = Night::open(settings, name).unwrap();
    let progress = night.go(Step::Curate, &|_| false).unwrap();
    assert!(matches!(progress, Progress::Complete(Step::Curate)), "{progress:?}");
}

/// A run that stopped after its curation, and its data set.
fn curated(bench: &Bench) -> (PipelineSection, PathBuf) {
    let settings = bench.settings();
    stopped(&settings, "night");
    let dataset = settings.work.join("night/dataset");
    (settings, dataset)
}

/// A lease that another host holds.
fn held_elsewhere(settings: &PipelineSection) -> Lease {
    let holder = Holder {
        host: "elsewhere".to_owned(),
        process: 1,
        run: "theirs".to_owned(),
    };
    let registry = Registry::open(&settings.registry).unwrap();
    match Lease::ask(registry.store(), holder, now_us(), 3_600_000_000).unwrap() {
        Asked::Granted(lease) => lease,
        held => panic!("{held:?}"),
    }
}

#[test]
fn a_run_whose_champion_was_replaced_ends_and_says_so() {
    let bench = Bench::new();
    let settings = bench.settings();
    stopped(&settings, "night-1");
    let promoted = ended(run(&settings, "night-2").unwrap());
    assert_eq!(promoted.status, Status::Promoted);
    let outcome = ended(run(&settings, "night-1").unwrap());
    assert_eq!((outcome.status, &outcome.generation), (Status::Kept, &None));
    assert!(
        outcome.reasons[0].contains("entry 1") && outcome.reasons[0].contains("entry 0"),
        "{outcome:?}"
    );
    let champion = Registry::open(&settings.registry).unwrap().champion().unwrap().unwrap();
    assert_eq!(champion.generation, promoted.generation);
}

#[test]
fn only_what_has_a_plan_is_a_run() {
    let bench = Bench::new();
    let settings = bench.settings();
    stopped(&settings, "night");
    std::fs::write(settings.work.join("notes.txt"), "by hand").unwrap();
    std::fs::create_dir(settings.work.join("lost+found")).unwrap();
    assert_eq!(Report::read(&settings).unwrap().open, ["night"]);
}

#[test]
fn a_patient_is_erased_from_every_data_set_but_not_under_a_job_that_reads_them() {
    let bench = Bench::new();
    let (settings, own) = curated(&bench);
    let apart = bench.path("apart");
    std::fs::create_dir(&apart).unwrap();
    for file in std::fs::read_dir(&own).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), apart.join(file.file_name())).unwrap();
    }
    let partial = settings.work.join("night/dataset.partial");
    std::fs::create_dir(&partial).unwrap();
    let patient = Dataset::open(&own).unwrap().samples()[0].patient_hash.clone();
    let holds = |dir: &Path| {
        let data = Dataset::open(dir).unwrap();
        data.samples().iter().any(|sample| sample.patient_hash == patient)
    };

    let theirs = held_elsewhere(&settings);
    let error = undo::erase(&settings, None, &patient, &[]).unwrap_err();
    assert!(format!("{error:#}").contains("run theirs on elsewhere"), "{error:#}");
    let registry = Registry::open(&settings.registry).unwrap();
    assert!(Erasures::open(registry.store()).unwrap().contains(&patient));
    assert!(holds(&own) && partial.exists());
    theirs.release().unwrap();

    let removed = undo::erase(&settings, None, &patient, std::slice::from_ref(&apart)).unwrap();
    assert!(removed >= 2, "{removed}");
    assert!(!holds(&own) && !holds(&apart) && !partial.exists());
}

#[test]
fn a_run_goes_on_after_an_upgrade_and_without_a_patient_who_was_erased_meanwhile() {
    let bench = Bench::new();
    let (settings, dataset) = curated(&bench);
    let (path, manifest) = (dataset.join(MANIFEST), read_manifest(&dataset).unwrap());
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace(&manifest.query.code_sha256, &"0".repeat(64))).unwrap();
    let data = Dataset::open(&dataset).unwrap();
    let patient = data.samples()[data.indices(|sample| sample.split == Split::Train)[0]]
        .patient_hash
        .clone();
    let theirs = held_elsewhere(&settings);
    undo::erase(&settings, None, &patient, &[]).unwrap_err();
    theirs.release().unwrap();
    let outcome = ended(run(&settings, "night").unwrap());
    assert_eq!(outcome.status, Status::Promoted, "{outcome:?}");
    let data = Dataset::open(&dataset).unwrap();
    assert!(data.samples().iter().all(|sample| sample.patient_hash != patient));
    let generation = bench
        .path("registry")
        .join(generation_key(outcome.generation.as_deref().unwrap()));
    let record = crate::record::Record::<serde_json::Value>::read(&generation).unwrap();
    assert!(
        record
            .and_then(|record| record.seconds)
            .is_some_and(|seconds| seconds > 0.0)
    );
}

#[test]
fn what_the_metrics_need_is_looked_for_before_anything_is_done() {
    let bench = Bench::new();
    let mut settings = bench.settings();
    settings.wordnet = bench.path("nowhere");
    let error = format!("{:#}", run(&settings, "night").unwrap_err());
    assert!(
        error.contains("pipeline.wordnet") && error.contains("nowhere"),
        "{error}"
    );
    assert!(
        Report::read(&settings).unwrap().open.is_empty(),
        "no plan, so it can be mended"
    );
}

#[test]
fn a_lease_is_seen_by_whoever_waits_for_it() {
    let bench = Bench::new();
    let settings = bench.settings();
    let registry = Registry::open(&settings.registry).unwrap();
    let by = || crate::lease::held(registry.store(), now_us()).unwrap().map(|by| by.run);
    assert_eq!(by(), None);
    let theirs = held_elsewhere(&settings);
    assert_eq!(by().as_deref(), Some("theirs"));
    theirs.release().unwrap();
    assert_eq!(by(), None);
}
