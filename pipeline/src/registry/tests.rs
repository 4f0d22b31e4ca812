//! The registry's rules, each on a directory and on S3.
//!
//! Place: tests only. Invariant: loopback alone; times are arguments.

use model::registry::{Base, GENERATION_FORMAT};
use s3::Server;

use super::*;
use crate::lease::{Asked, Holder};

const HOUR_US: i64 = 3_600_000_000;

fn holder(run: &str) -> Holder {
    Holder {
        host: run.to_owned(),
        process: 1,
        run: run.to_owned(),
    }
}

fn lease(registry: &Registry, run: &str, now_us: i64) -> Lease {
    match Lease::ask(registry.store(), holder(run), now_us, HOUR_US).unwrap() {
        Asked::Granted(lease) => lease,
        Asked::Held { by, .. } => panic!("held by {by:?}"),
    }
}

/// Runs a test on a registry of each kind that holds the generations a1 and b2.
fn check_both(test: impl Fn(&Registry)) {
    let (dir, server) = (tempfile::tempdir().unwrap(), Server::start());
    let directory = Registry::open(&dir.path().join("registry").into()).unwrap();
    let s3 = store::s3::S3::new("bucket", "registry", server.variables()).unwrap();
    for registry in [directory, Registry::over(Arc::new(s3))] {
        for id in ["a1", "b2"] {
            registry.publish(id, &made(dir.path(), id), 0).unwrap();
        }
        test(&registry);
    }
}

/// A directory with nothing but generation.json.
fn made(at: &Path, id: &str) -> PathBuf {
    let from = at.join(id);
    std::fs::create_dir_all(&from).unwrap();
    let generation = Generation {
        format: GENERATION_FORMAT.to_owned(),
        id: id.to_owned(),
        base: Base {
            bundle_id: String::new(),
            decoder_sha256: String::new(),
            tokenizer_sha256: String::new(),
        },
        parent: None,
        run: "night".to_owned(),
        dataset_sha256: String::new(),
        adapter_sha256: String::new(),
    };
    std::fs::write(from.join(GENERATION), serde_json::to_vec(&generation).unwrap()).unwrap();
    from
}

#[test]
fn a_job_that_lost_its_lease_cannot_promote() {
    check_both(|registry| {
        let slow = lease(registry, "slow", 0);
        let fast = lease(registry, "fast", HOUR_US);
        registry.change(&fast, 0, Change::Promote, Some("b2"), HOUR_US).unwrap();
        for now in [1, HOUR_US] {
            let error = registry
                .change(&slow, 0, Change::Promote, Some("a1"), now)
                .unwrap_err()
                .to_string();
            assert!(error.contains("fenced"), "{error}");
        }
        assert_eq!(registry.champion().unwrap().unwrap().generation.as_deref(), Some("b2"));
    });
}

#[test]
fn of_two_jobs_that_promote_at_once_one_wins() {
    check_both(|registry| {
        // one lease, as if the second had been given out between the check and the write of the first
        let lease = lease(registry, "night", 0);
        let promote = |id: &'static str| registry.change(&lease, 0, Change::Promote, Some(id), 1);
        let promoted = std::thread::scope(|scope| {
            let threads = ["a1", "b2"].map(|id| scope.spawn(move || promote(id)));
            threads.map(|thread| thread.join().unwrap())
        });
        let [first, second] = &promoted;
        assert!(first.is_ok() != second.is_ok(), "{promoted:?}");
        let won = promoted.iter().flatten().next().unwrap();
        assert_eq!(registry.history().unwrap(), std::slice::from_ref(won));
        let error = promoted.iter().find_map(|p| p.as_ref().err()).unwrap().to_string();
        assert!(error.contains("champion changed"), "{error}");
    });
}

#[test]
fn of_many_jobs_that_ask_for_the_lease_at_once_one_is_granted() {
    check_both(|registry| {
        let asked: Vec<Asked> = std::thread::scope(|scope| {
            let ask = |i: usize| {
                scope.spawn(move || Lease::ask(registry.store(), holder(&i.to_string()), 0, HOUR_US).unwrap())
            };
            let threads: Vec<_> = (0..8).map(ask).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(asked.iter().filter(|a| matches!(a, Asked::Granted(_))).count(), 1);
    });
}

#[test]
fn a_lease_that_is_given_back_or_over_goes_to_the_next_with_a_higher_token() {
    check_both(|registry| {
        let ask = |run, now| Lease::ask(registry.store(), holder(run), now, HOUR_US).unwrap();
        let mut first = lease(registry, "a", 0);
        first.renew(1).unwrap();
        let until = HOUR_US + 1;
        assert!(matches!(ask("b", 2), Asked::Held { until_us, .. } if until_us == until));
        first.release().unwrap();
        assert_eq!(lease(registry, "b", 3).token(), 2);
        assert_eq!(lease(registry, "c", 3 + HOUR_US).token(), 3);
    });
}

#[test]
fn a_decision_against_another_champion_is_void() {
    check_both(|registry| {
        let lease = lease(registry, "run", 0);
        registry.change(&lease, 0, Change::Promote, Some("a1"), 1).unwrap();
        let error = registry
            .change(&lease, 0, Change::Promote, Some("b2"), 2)
            .unwrap_err()
            .to_string();
        assert!(error.contains("champion changed"), "{error}");
        let error = registry.change(&lease, 1, Change::Promote, Some("c3"), 2).unwrap_err();
        assert!(error.to_string().contains("generation c3 is not in"), "{error}");
    });
}

#[test]
fn a_rollback_goes_back_and_in_the_end_to_the_base() {
    check_both(|registry| {
        assert!(registry.previous().is_err());
        let lease = lease(registry, "run", 0);
        registry.change(&lease, 0, Change::Promote, Some("a1"), 1).unwrap();
        assert_eq!(registry.previous().unwrap(), None);
        registry.change(&lease, 1, Change::Promote, Some("b2"), 2).unwrap();
        assert_eq!(registry.previous().unwrap().as_deref(), Some("a1"));
        // not forward again to what was taken back
        registry.change(&lease, 2, Change::Rollback, Some("a1"), 3).unwrap();
        assert_eq!(registry.previous().unwrap(), None);
        registry.change(&lease, 3, Change::Promote, Some("b2"), 4).unwrap();
        assert_eq!(registry.previous().unwrap().as_deref(), Some("a1"));
        for (number, to) in [(4, Some("a1")), (5, None)] {
            registry.change(&lease, number, Change::Rollback, to, 5).unwrap();
        }
        assert!(registry.previous().is_err());
        assert_eq!(registry.history().unwrap().len(), 6);
    });
}

#[test]
fn events_come_in_order_and_a_line_that_was_cut_off_is_left_out() {
    check_both(|registry| {
        registry.event(&serde_json::json!({"kind": "one"})).unwrap();
        registry.store().append(EVENTS, "{\"kind\": \"tw").unwrap();
        registry.event(&serde_json::json!({"kind": "three"})).unwrap();
        let kinds: Vec<_> = registry.events().unwrap().iter().map(|e| e["kind"].clone()).collect();
        assert_eq!(kinds, ["one", "three"]);
    });
}

#[test]
fn an_erased_patient_is_on_the_list_of_whoever_opens_it() {
    check_both(|registry| {
        let hash = "0123456789abcdef0123456789ABCDEF";
        let mut erasures = crate::erasure::Erasures::open(registry.store()).unwrap();
        let none = erasures.sha256();
        assert!(erasures.add(hash).unwrap());
        assert!(!erasures.add(hash).unwrap());
        assert!(erasures.add("no hash").is_err());
        let again = crate::erasure::Erasures::open(registry.store()).unwrap();
        assert!(again.contains(&hash.to_lowercase()) && again.sha256() == erasures.sha256() && again.sha256() != none);
    });
}
