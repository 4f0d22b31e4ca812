//! Bundles with adapters: sealed, checked, requested and swapped.
//!
//! Place: on the shipped bundle. Invariant: a draft names the adapter that wrote it, and another adapter never touches it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use model::bundle::{self, Bundle};
use model::generate::DecodeOptions;
use model::lora::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, Adapter, AdapterConfig, Targets};
use model::meit::{Drafted, EcgInput};
use model::refill::DraftRequest;
use model::slots::SlotLimits;
use node::drafter::{BundleDrafter, Drafter};
use node::slot::Slot;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::rig::root;

fn shipped() -> PathBuf {
    root().join("model/bundle")
}

fn load(dir: &Path) -> Bundle {
    Bundle::load(dir, &Device::Cpu).unwrap()
}

/// Stands in for a trained adapter: strong enough to change a text.
fn adapter(bundle: &Bundle, seed: u64) -> Adapter {
    let config = AdapterConfig::new(
        2,
        8.0,
        Targets::Names(vec!["v_proj".to_owned(), "down_proj".to_owned()]),
    );
    let backbone = &bundle.drafting().model.backbone;
    let fresh = Adapter::fresh(config, backbone, &mut ChaCha8Rng::seed_from_u64(seed)).unwrap();
    let tensors = fresh.tensors().unwrap().into_iter().map(|(name, t)| {
        let values: Vec<f32> = (0..t.elem_count())
            .map(|i| ((i as f32 + seed as f32) * 1.3).sin() * 0.2)
            .collect();
        (name, Tensor::from_vec(values, t.shape(), &Device::Cpu).unwrap())
    });
    Adapter::new(fresh.config().clone(), &tensors.collect(), backbone).unwrap()
}

/// Two different rhythms, as far as the encoder can tell.
fn ecgs() -> Vec<EcgInput> {
    let beat = |period: usize| {
        let sample = move |i: usize| {
            if i % period < 20 {
                1.0
            } else {
                0.02 * ((i / 40) as f32).sin()
            }
        };
        EcgInput {
            millivolts: (0..60_000).map(sample).collect(),
            ..EcgInput::default()
        }
    };
    vec![beat(400), beat(250)]
}

fn texts(bundle: &Bundle, adapters: &[Option<&Adapter>]) -> Vec<String> {
    let options = DecodeOptions {
        tokens_max: 24,
        ..DecodeOptions::default()
    };
    let drafts = bundle
        .drafting()
        .draft_with(&ecgs(), adapters, &options, &|_| {})
        .unwrap();
    drafts.into_iter().map(|draft| draft.text).collect()
}

/// A copy of the shipped bundle with `adapter` inside, sealed again.
fn sealed(dir: &Path, adapter: &Adapter) {
    for entry in std::fs::read_dir(shipped()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.join(path.file_name().unwrap())).unwrap();
    }
    adapter.save(&dir.join(bundle::ADAPTER)).unwrap();
    let manifest = load(&shipped()).manifest().clone();
    bundle::seal(dir, manifest).unwrap();
}

#[test]
fn an_adapter_inside_a_bundle_writes_its_drafts_and_is_named_by_them() {
    let base = load(&shipped());
    let adapter = adapter(&base, 1);
    let dir = tempfile::tempdir().unwrap();
    sealed(dir.path(), &adapter);
    let adapted = load(dir.path());
    let files = [ADAPTER_CONFIG, ADAPTER_WEIGHTS]
        .map(|name| std::fs::read(dir.path().join(bundle::ADAPTER).join(name)).unwrap());
    let parts = &adapted.manifest().parts;
    assert!(
        parts.contains_key("adapter/adapter_config.json") && parts.contains_key("adapter/adapter_model.safetensors")
    );
    assert_eq!(adapted.lineage().adapter_sha256, Some(sha256(&files.concat())));
    assert_eq!(adapted.lineage().base_sha256, base.lineage().base_sha256);
    assert_eq!(base.lineage().adapter_sha256, None);
    assert_ne!(adapted.id(), base.id());
    let none = [None, None];
    assert_ne!(texts(&adapted, &none), texts(&base, &none));
    assert_eq!(texts(&adapted, &none), texts(&base.with(adapter), &none));
    assert_eq!(texts(&adapted.base(), &none), texts(&base, &none));
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn an_adapter_that_differs_from_its_hash_or_is_gone_stops_the_bundle() {
    let base = load(&shipped());
    let dir = tempfile::tempdir().unwrap();
    sealed(dir.path(), &adapter(&base, 1));
    adapter(&base, 2).save(&dir.path().join(bundle::ADAPTER)).unwrap();
    let error = Bundle::load(dir.path(), &Device::Cpu).err().unwrap().to_string();
    assert!(
        error.contains("adapter/adapter_model.safetensors has sha256"),
        "{error}"
    );
    std::fs::remove_dir_all(dir.path().join(bundle::ADAPTER)).unwrap();
    let error = Bundle::load(dir.path(), &Device::Cpu).err().unwrap().to_string();
    assert!(error.contains("adapter"), "{error}");
}

#[test]
fn each_request_gets_its_own_adapter_or_the_bundles() {
    let base = load(&shipped());
    let (one, two) = (adapter(&base, 1), adapter(&base, 3));
    let none = [None, None];
    let of = |adapter: &Adapter| texts(&base.with(adapter.clone()), &none);
    let (ones, twos, bases) = (of(&one), of(&two), texts(&base, &none));
    assert!(ones != twos && ones != bases && twos != bases);
    assert_eq!(texts(&base, &[Some(&two), None]), [twos[0].clone(), bases[1].clone()]);
    let own = base.with(one);
    assert_eq!(texts(&own, &[None, Some(&two)]), [ones[0].clone(), twos[1].clone()]);
}

#[test]
fn one_batch_drafts_the_texts_of_its_requests_alone() {
    let base = load(&shipped());
    let (one, options) = (adapter(&base, 1), DecodeOptions::default());
    let adapters = [None, Some(&one)];
    let texts = |drafts: Vec<model::meit::Drafted>| drafts.into_iter().map(|draft| draft.text).collect::<Vec<_>>();
    let drafting = base.drafting();
    let together = texts(drafting.draft_batch(&ecgs(), &adapters, &options, &|_| {}).unwrap());
    assert_eq!(
        together,
        texts(drafting.draft_with(&ecgs(), &adapters, &options, &|_| {}).unwrap())
    );
}

#[test]
fn requests_that_share_slots_keep_each_its_own_adapter() {
    let base = load(&shipped());
    let (own, one) = (base.with(adapter(&base, 3)), adapter(&base, 1));
    let (ecgs, options) = (ecgs(), DecodeOptions::default());
    let limits = SlotLimits { slots: 2, tokens: 512 };
    for bundle in [&base, &own] {
        let drafting = bundle.drafting();
        let adapters = [None, Some(&one), Some(&one), None, None];
        let mut slots = drafting.refill(limits, &options).unwrap();
        let mut requests = adapters.iter().enumerate().map(|(key, adapter)| DraftRequest {
            key,
            ecg: &ecgs[key % 2],
            adapter: *adapter,
        });
        let mut drafts: Vec<(usize, Drafted)> = Vec::new();
        while drafts.len() < adapters.len() {
            slots
                .admit(&requests.by_ref().take(slots.free().min(1)).collect::<Vec<_>>())
                .unwrap();
            drafts.extend(slots.step().unwrap());
        }
        for (key, draft) in drafts {
            let ecg = std::slice::from_ref(&ecgs[key % 2]);
            let alone = drafting
                .draft_with(ecg, &adapters[key..=key], &options, &|_| {})
                .unwrap();
            assert_eq!(draft, alone[0], "request {key}");
        }
    }
}

#[test]
fn a_swap_changes_the_next_batch_and_leaves_the_running_one() {
    let base = load(&shipped());
    let dir = tempfile::tempdir().unwrap();
    let digest = adapter(&base, 1).save(dir.path()).unwrap();
    let drafter = |bundle: Bundle| Arc::new(BundleDrafter::new(Arc::new(bundle), DecodeOptions::default()));
    let written = |drafter: &Arc<dyn Drafter>| -> Vec<String> {
        let drafts = drafter.draft(&ecgs()).unwrap();
        drafts.into_iter().map(|draft| draft.text).collect()
    };
    let slot = Slot::new(drafter(base.clone()));
    let running = slot.get();
    let before = written(&running);
    let replaced = slot.swap(drafter(base.with_adapter(dir.path()).unwrap()));
    assert!(Arc::ptr_eq(&replaced, &running));
    drop(replaced);
    let next = slot.get();
    assert_eq!(written(&running), before);
    assert_eq!(running.lineage().adapter_sha256, None);
    assert_ne!(written(&next), before);
    assert_eq!(next.lineage().adapter_sha256, Some(digest));
    drop(slot.swap(drafter(base)));
    assert_eq!(written(&slot.get()), before);
    assert_eq!(
        Arc::strong_count(&next),
        1,
        "nobody else keeps a generation that was replaced"
    );
}
