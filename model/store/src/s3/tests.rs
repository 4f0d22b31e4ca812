//! The store's promises on S3's protocol, and on a directory where both make them.
//!
//! Place: tests only. Invariant: loopback alone; faults are ordered, never waited for.

use s3::{Fault, Server};

use super::*;
use crate::directory::Directory;

fn open(server: &Server) -> S3 {
    let mut store = S3::new("bucket", "wards/icu", server.variables()).unwrap();
    store.piece_bytes = 64;
    store
}

/// Runs a test on both kinds of store.
fn check_both(test: impl Fn(&dyn Store, &Path)) {
    let (dir, server) = (tempfile::tempdir().unwrap(), Server::start());
    for folder in ["a", "b"] {
        std::fs::create_dir(dir.path().join(folder)).unwrap();
    }
    test(&Directory::new(&dir.path().join("a/store")), &dir.path().join("a"));
    test(&open(&server), &dir.path().join("b"));
}

#[test]
fn an_object_is_created_once_and_overwritten_by_a_put_alone() {
    check_both(|store, _| {
        assert_eq!(store.get("folder/1.json").unwrap(), None);
        assert!(store.list("folder").unwrap().is_empty());
        assert!(store.create_new("folder/1.json", b"first").unwrap());
        assert!(!store.create_new("folder/1.json", b"second").unwrap());
        assert_eq!(store.get("folder/1.json").unwrap().unwrap(), b"first");
        store.put("folder/1.json", b"third").unwrap();
        assert_eq!(store.get("folder/1.json").unwrap().unwrap(), b"third");
    });
}

#[test]
fn names_come_sorted_and_of_one_folder_alone() {
    check_both(|store, _| {
        // more than a page of the server
        for name in ["7", "2", "5", "1", "3"] {
            store.put(&format!("folder/{name}.json"), b"x").unwrap();
        }
        store.put("folders/1.json", b"x").unwrap();
        let names = store.list("folder").unwrap();
        assert_eq!(names, ["1.json", "2.json", "3.json", "5.json", "7.json"]);
    });
}

#[test]
fn of_many_that_create_at_once_one_wins() {
    check_both(|store, _| {
        let won: Vec<bool> = std::thread::scope(|scope| {
            let create = |i: usize| scope.spawn(move || store.create_new("1.json", &[i as u8]).unwrap());
            let threads: Vec<_> = (0..8).map(create).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(won.iter().filter(|won| **won).count(), 1, "{won:?}");
        let held = store.get("1.json").unwrap().unwrap();
        assert!(won[usize::from(held[0])], "the winner's bytes are there");
    });
}

#[test]
fn lines_of_a_log_come_in_the_order_in_which_they_were_added() {
    check_both(|store, _| {
        assert!(store.lines("log.jsonl").unwrap().is_empty());
        for line in ["one", "two", "three", "four", "one"] {
            store.append("log.jsonl", line).unwrap();
        }
        assert_eq!(
            store.lines("log.jsonl").unwrap(),
            ["one", "two", "three", "four", "one"]
        );
    });
}

/// A folder with an empty file, one in a folder, one of several pieces, and the marker.
fn folder(at: &Path) -> PathBuf {
    let from = at.join("made");
    std::fs::create_dir_all(from.join("adapter")).unwrap();
    std::fs::write(from.join("empty"), b"").unwrap();
    std::fs::write(from.join("adapter/weights"), [7; 64]).unwrap();
    let large: Vec<u8> = (0..=255).collect();
    std::fs::write(from.join("large"), large).unwrap();
    std::fs::write(from.join("a-marker"), b"whole").unwrap();
    from
}

#[test]
fn a_published_folder_is_mirrored_file_by_file_and_pruned_but_for_what_is_kept() {
    check_both(|store, at| {
        let (from, cache) = (folder(at), at.join("cache"));
        store.publish("generations/ab12", &from, "a-marker", 0).unwrap();
        std::fs::write(from.join("empty"), b"changed").unwrap();
        store.publish("generations/ab12", &from, "a-marker", 0).unwrap();
        let copy = store.mirror("generations/ab12", &cache, &|| false).unwrap();
        assert_eq!(std::fs::read(copy.join("empty")).unwrap(), b"", "what is there stays");
        assert_eq!(std::fs::read(copy.join("adapter/weights")).unwrap(), [7; 64]);
        assert_eq!(
            std::fs::read(copy.join("large")).unwrap(),
            (0..=255).collect::<Vec<u8>>()
        );
        assert_eq!(std::fs::read(copy.join("a-marker")).unwrap(), b"whole");
        assert!(store.mirror("generations/cd34", &cache, &|| false).is_err());
        store.prune(&cache, &["ab12"]).unwrap();
        assert_eq!(store.mirror("generations/ab12", &cache, &|| true).unwrap(), copy);
    });
}

#[test]
fn the_marker_is_uploaded_last() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    let from = folder(dir.path());
    open(&server).publish("generations/ab12", &from, "a-marker", 0).unwrap();
    let requests = server.requests();
    assert_eq!(
        requests.last().unwrap(),
        "PUT bucket/wards/icu/generations/ab12/a-marker"
    );
    assert_eq!(server.keys().len(), 4);
    std::fs::remove_file(from.join("a-marker")).unwrap();
    let error = open(&server).publish("generations/cd34", &from, "a-marker", 0);
    assert!(error.unwrap_err().to_string().contains("a-marker is missing"));
    assert_eq!(server.keys().len(), 4, "nothing was uploaded");
}

#[test]
fn a_copy_that_was_cut_off_is_no_copy_and_is_made_again() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    let (store, cache) = (open(&server), dir.path().join("cache"));
    store
        .publish("generations/ab12", &folder(dir.path()), "a-marker", 0)
        .unwrap();
    server.fault(Fault::FailsDownloadsAfter(3));
    let error = format!("{:#}", store.mirror("generations/ab12", &cache, &|| false).unwrap_err());
    assert!(
        error.contains("read s3://bucket/wards/icu/generations/ab12/"),
        "{error}"
    );
    assert!(!cache.join("ab12").exists());
    server.fault(Fault::None);
    let stopped = store.mirror("generations/ab12", &cache, &|| true).unwrap_err();
    assert!(stopped.to_string().contains("stopped at byte 0"), "{stopped}");
    store.mirror("generations/ab12", &cache, &|| false).unwrap();
    assert_eq!(
        std::fs::read_dir(&cache).unwrap().count(),
        1,
        "nothing of the others stays"
    );
}

#[test]
fn copies_are_pruned_and_what_is_no_copy_stays() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    for name in ["ab12", "cd34", "ef56.partial", "other"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("abcd"), b"a file").unwrap();
    open(&server).prune(dir.path(), &["cd34"]).unwrap();
    let mut left: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["abcd", "cd34", "other"]);
}

#[test]
fn a_creation_whose_answer_was_lost_is_known_by_its_bytes() {
    let server = Server::start();
    let store = open(&server);
    server.fault(Fault::LosesAnAnswer);
    assert!(store.create_new("1.json", b"mine").unwrap());
    assert!(!store.create_new("1.json", b"theirs").unwrap());
}

#[test]
fn a_server_that_does_not_keep_conditions_is_refused_at_the_first_creation() {
    let server = Server::start();
    server.fault(Fault::Overwrites);
    let error = format!("{:#}", open(&server).create_new("1.json", b"mine").unwrap_err());
    assert!(error.contains("does not keep If-None-Match"), "{error}");
}

#[test]
fn a_store_that_lets_nobody_in_is_an_error_and_not_an_empty_one() {
    let server = Server::start();
    server.fault(Fault::Forbids);
    let store = open(&server);
    for error in [
        store.get("1.json").unwrap_err(),
        store.list("folder").unwrap_err(),
        store.create_new("1.json", b"x").unwrap_err(),
    ] {
        assert!(format!("{error:#}").contains("s3://bucket/wards/icu/"), "{error:#}");
    }
}

#[test]
fn a_client_may_be_dropped_inside_a_task() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let server = Server::start();
    let store = open(&server);
    runtime.block_on(async move { drop(store) });
}
