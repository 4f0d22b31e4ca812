//! The watcher on registries that hold the shipped bundle under other names, whole and broken; in a directory and on S3.
//!
//! Place: tests only. Invariant: looks are called, never waited for; loopback alone.

use model::bundle::{self, DECODER, ENCODER};
use model::lora::{Adapter, AdapterConfig, Targets};
use model::registry::{Base, CHAMPION, Change, GENERATION, GENERATION_FORMAT, Generation};
use prometheus::Registry;
use rand_chacha::rand_core::SeedableRng as _;
use s3::{Fault, Server};
use store::s3::S3;

use super::*;
use crate::draft::{Times, drafted};
use crate::slot::author;
use crate::testing::{segment, text};

struct Bench {
    dir: tempfile::TempDir,
    base: Arc<Bundle>,
    entries: u64,
}

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../bundle")
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            base: Arc::new(Bundle::load(&shipped(), &Device::Cpu).unwrap()),
            entries: 0,
            dir,
        }
    }

    fn store(&self) -> Arc<dyn Store> {
        store::open(&self.dir.path().into()).unwrap()
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn watcher(&self) -> (Watcher, Slot, Canary, Metrics) {
        self.watcher_of(self.store(), ServedWeights::F32)
    }

    fn watcher_of(&self, store: Arc<dyn Store>, weights: ServedWeights) -> (Watcher, Slot, Canary, Metrics) {
        let options = DecodeOptions::default();
        let slot = Slot::new(Arc::new(BundleDrafter::new(Arc::clone(&self.base), options.clone())));
        let settings = WatchSettings {
            cache: self.cache(),
            ..crate::settings::shipped().node.watch
        };
        let (canary, metrics) = (Canary::default(), Metrics::new(&Registry::new()).unwrap());
        let parts = (slot.clone(), canary.clone(), metrics.clone());
        (
            Watcher::over(store, settings, &self.base, (weights, options), parts),
            slot,
            canary,
            metrics,
        )
    }

    /// The shipped bundle as a generation; `change` may break it before it is sealed.
    fn generation(&self, name: &str, change: impl FnOnce(&Path, &mut Base)) -> String {
        let made = self.dir.path().join(name);
        std::fs::create_dir(&made).unwrap();
        for entry in std::fs::read_dir(shipped()).unwrap() {
            let path = entry.unwrap().path();
            // nothing but files lies in the shipped bundle
            std::fs::copy(&path, made.join(path.file_name().unwrap())).unwrap();
        }
        let lineage = self.base.lineage();
        let mut base = Base {
            bundle_id: self.base.id().to_owned(),
            decoder_sha256: lineage.base_sha256,
            tokenizer_sha256: lineage.tokenizer_sha256,
        };
        change(&made, &mut base);
        let mut manifest = self.base.manifest().clone();
        manifest.name = name.to_owned();
        let id = bundle::seal(&made, manifest).unwrap();
        let generation = Generation {
            format: GENERATION_FORMAT.to_owned(),
            id: id.clone(),
            base,
            parent: None,
            run: name.to_owned(),
            dataset_sha256: String::new(),
            adapter_sha256: String::new(),
        };
        std::fs::write(made.join(GENERATION), serde_json::to_vec(&generation).unwrap()).unwrap();
        self.store()
            .publish(&generation_key(&id), &made, GENERATION, 0)
            .unwrap();
        id
    }

    fn promote(&mut self, generation: Option<&str>) {
        self.promote_in(&*self.store(), generation);
    }

    fn promote_in(&mut self, store: &dyn Store, generation: Option<&str>) {
        self.entries += 1;
        let entry = Champion {
            number: self.entries,
            generation: generation.map(str::to_owned),
            change: Change::Promote,
            fencing_token: 1,
            by: "test".to_owned(),
            at_us: 0,
        };
        let key = format!("{CHAMPION}/{:08}.json", self.entries);
        assert!(store.create_new(&key, &serde_json::to_vec(&entry).unwrap()).unwrap());
    }
}

fn serving(slot: &Slot) -> String {
    slot.get().lineage().bundle_id
}

#[test]
fn a_champion_is_put_in_use_and_a_rollback_to_the_base_too() {
    let mut bench = Bench::new();
    let (mut watcher, slot, _, metrics) = bench.watcher();
    watcher.look();
    assert_eq!(serving(&slot), bench.base.id(), "an empty registry changes nothing");
    let id = bench.generation("new", |_, _| {});
    bench.promote(Some(&id));
    watcher.look();
    assert_eq!(serving(&slot), id);
    bench.promote(None);
    watcher.look();
    watcher.look();
    assert_eq!(serving(&slot), bench.base.id());
    assert_eq!(metrics.summary().generations["loaded"], 2);
}

#[test]
fn a_generation_is_served_in_the_weights_of_the_node_or_refused() {
    let mut bench = Bench::new();
    let id = bench.generation("quantised", |_, _| {});
    bench.promote(Some(&id));
    for (weights, fits) in [(ServedWeights::Q8, true), (ServedWeights::Q4, false)] {
        let (mut watcher, slot, _, _) = bench.watcher_of(bench.store(), weights);
        watcher.look();
        assert_eq!(
            serving(&slot) == id,
            fits,
            "{weights:?}: the shipped decoder has layers of 192 inputs"
        );
    }
}

#[track_caller]
fn check_refused(change: impl FnOnce(&Path, &mut Base)) {
    let mut bench = Bench::new();
    let (mut watcher, slot, _, metrics) = bench.watcher();
    let id = bench.generation("bad", change);
    bench.promote(Some(&id));
    watcher.look();
    bench.promote(Some(&id));
    watcher.look();
    assert_eq!(serving(&slot), bench.base.id());
    assert_eq!(metrics.summary().generations["refused"], 1, "it is tried once");
}

/// Rewrites one tensor of a part.
fn rewrite(path: &Path, name: &str, with: impl Fn(&candle_core::Tensor) -> candle_core::Tensor) {
    let mut tensors = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let changed = with(&tensors[name]);
    tensors.insert(name.to_owned(), changed);
    candle_core::safetensors::save(&tensors, path).unwrap();
}

const NORM: &str = "model.norm.weight";

#[test]
fn a_generation_on_another_base_is_refused() {
    check_refused(|_, base| base.decoder_sha256 = "0".repeat(64));
    check_refused(|_, base| base.tokenizer_sha256 = "0".repeat(64));
}

#[test]
fn weights_that_are_not_finite_or_of_another_shape_are_refused() {
    check_refused(|dir, _| rewrite(&dir.join(DECODER), NORM, |t| (t * f64::NAN).unwrap()));
    check_refused(|dir, _| rewrite(&dir.join(DECODER), NORM, |t| t.narrow(0, 0, 8).unwrap()));
}

/// An adapter whose factors drown the base.
fn deafening(bundle: &Bundle, dir: &Path) {
    let config = AdapterConfig::new(2, 64.0, Targets::Pattern("all-linear".to_owned()));
    let backbone = &bundle.drafting().model.backbone;
    let fresh = Adapter::fresh(config, backbone, &mut rand_chacha::ChaCha8Rng::seed_from_u64(1)).unwrap();
    let tensors = fresh.tensors().unwrap().into_iter().map(|(name, t)| {
        let values: Vec<f32> = (0..t.elem_count()).map(|i| (i as f32 * 1.3).sin() * 5.0).collect();
        (
            name,
            candle_core::Tensor::from_vec(values, t.shape(), &Device::Cpu).unwrap(),
        )
    });
    let adapter = Adapter::new(fresh.config().clone(), &tensors.collect(), backbone).unwrap();
    adapter.save(dir).unwrap();
}

#[test]
fn a_generation_that_cannot_write_is_refused_by_the_smoke_ecgs() {
    let base = Bundle::load(&shipped(), &Device::Cpu).unwrap();
    check_refused(|dir, _| {
        std::fs::create_dir(dir.join(bundle::ADAPTER)).unwrap();
        deafening(&base, &dir.join(bundle::ADAPTER));
    });
}

#[test]
fn a_byte_that_changed_after_sealing_is_refused() {
    let mut bench = Bench::new();
    let (mut watcher, slot, _, metrics) = bench.watcher();
    let id = bench.generation("flipped", |_, _| {});
    let path = bench.dir.path().join(generation_key(&id)).join(ENCODER);
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    bench.promote(Some(&id));
    watcher.look();
    assert_eq!(serving(&slot), bench.base.id());
    assert_eq!(metrics.summary().generations["refused"], 1);
}

#[test]
fn a_generation_that_does_worse_is_taken_back_and_not_tried_again() {
    let mut bench = Bench::new();
    let (mut watcher, slot, canary, metrics) = bench.watcher();
    let id = bench.generation("worse", |_, _| {});
    let drafts = |words: &str| {
        for i in 0..40 {
            canary.take(&drafted(
                &segment(i),
                &text(words),
                &author(&*slot.get()),
                &Times::default(),
            ));
        }
    };
    drafts("sinus rhythm");
    bench.promote(Some(&id));
    watcher.look();
    assert_eq!(serving(&slot), id);
    drafts("...");
    watcher.look();
    assert_eq!(serving(&slot), bench.base.id());
    bench.promote(Some(&id));
    watcher.look();
    assert_eq!(serving(&slot), bench.base.id());
    assert_eq!(metrics.summary().generations["taken_back"], 1);
}

/// A registry on S3, and copies of generations that a bench made.
fn on_s3(bench: &Bench, ids: &[&str]) -> (Server, Arc<dyn Store>) {
    let server = Server::start();
    let store: Arc<dyn Store> = Arc::new(S3::new("bucket", "registry", server.variables()).unwrap());
    for id in ids {
        let made = bench.dir.path().join(generation_key(id));
        store.publish(&generation_key(id), &made, GENERATION, 0).unwrap();
    }
    (server, store)
}

/// Names of the copies, sorted.
fn copies(bench: &Bench) -> Vec<String> {
    let entries = std::fs::read_dir(bench.cache()).into_iter().flatten();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_promotion_on_s3_is_followed_and_two_generations_are_kept_here() {
    let mut bench = Bench::new();
    let ids = ["one", "two", "three"].map(|name| bench.generation(name, |_, _| {}));
    let (server, store) = on_s3(&bench, &[&ids[0], &ids[1], &ids[2]]);
    let (mut watcher, slot, _, metrics) = bench.watcher_of(Arc::clone(&store), ServedWeights::F32);
    watcher.look();
    assert_eq!(serving(&slot), bench.base.id(), "an empty registry changes nothing");
    for id in &ids {
        bench.promote_in(&*store, Some(id));
        watcher.look();
        assert_eq!(serving(&slot), *id);
    }
    let mut kept = ids[1..].to_vec();
    kept.sort();
    assert_eq!(copies(&bench), kept);
    server.requests();
    watcher.look();
    assert_eq!(
        server.requests(),
        ["GET bucket"],
        "a look that finds nothing new is a listing"
    );
    bench.promote_in(&*store, Some(&ids[1]));
    server.requests();
    watcher.look();
    assert_eq!(serving(&slot), ids[1]);
    let asked = server.requests();
    assert!(
        !asked.iter().any(|request| request.contains("generations/")),
        "the copy was there: {asked:?}"
    );
    bench.promote_in(&*store, None);
    watcher.look();
    assert_eq!(serving(&slot), bench.base.id());
    assert_eq!(copies(&bench), [ids[1].clone()]);
    assert_eq!(metrics.summary().registry_errors, 0);
}

#[test]
fn a_store_that_cannot_be_reached_changes_nothing_and_is_asked_again() {
    let mut bench = Bench::new();
    let ids = ["one", "two"].map(|name| bench.generation(name, |_, _| {}));
    let (server, store) = on_s3(&bench, &[&ids[0], &ids[1]]);
    let (mut watcher, slot, _, metrics) = bench.watcher_of(Arc::clone(&store), ServedWeights::F32);
    bench.promote_in(&*store, Some(&ids[0]));
    watcher.look();
    bench.promote_in(&*store, Some(&ids[1]));
    for fault in [Fault::Forbids, Fault::FailsDownloadsAfter(1)] {
        server.fault(fault);
        watcher.look();
        assert_eq!(serving(&slot), ids[0], "{fault:?}");
    }
    let summary = metrics.summary();
    assert_eq!(summary.registry_errors, 2);
    assert_eq!(summary.generations["loaded"], 1, "{summary:?}");
    assert!(!summary.generations.contains_key("refused"), "{summary:?}");
    server.fault(Fault::None);
    watcher.look();
    assert_eq!(serving(&slot), ids[1]);
}

#[test]
fn a_byte_that_changed_on_s3_is_refused_and_no_copy_of_it_stays() {
    let mut bench = Bench::new();
    let id = bench.generation("flipped", |_, _| {});
    let (server, store) = on_s3(&bench, &[&id]);
    let (mut watcher, slot, _, metrics) = bench.watcher_of(Arc::clone(&store), ServedWeights::F32);
    let key = format!("bucket/registry/{}/{ENCODER}", generation_key(&id));
    server.change(&key, |bytes| *bytes.last_mut().unwrap() ^= 1);
    bench.promote_in(&*store, Some(&id));
    watcher.look();
    assert_eq!(serving(&slot), bench.base.id());
    assert_eq!(metrics.summary().generations["refused"], 1);
    assert!(copies(&bench).is_empty());
}
