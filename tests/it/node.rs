//! The shipped bundle: loads, refuses to load when a byte differs, and drafts the same alone or in a batch.
//!
//! Place: model/bundle, read as `meit-node` reads it. Invariant: what the texts say is for the pipeline's evaluation.

use std::path::PathBuf;

use candle_core::Device;
use ecg::segment::Segment;
use model::bundle::{Bundle, ENCODER, MANIFEST};
use model::generate::DecodeOptions;
use model::meit::EcgInput;
use node::drafter::{BundleDrafter, Drafter};

use crate::rig::{copy, recordings, root};

fn shipped() -> PathBuf {
    root().join("model/bundle")
}

fn inputs() -> Vec<EcgInput> {
    let segment = |recording: &bedside::recording::Recording| -> Segment {
        let record = ecg::wfdb::read(&recording.header).unwrap();
        ecg::dsp::analyse(&record.context().unwrap(), &ecg::dsp::DspConfig::default())
    };
    recordings()
        .iter()
        .map(segment)
        .map(|segment| EcgInput::from(&segment))
        .collect()
}

#[test]
fn the_shipped_bundle_drafts_three_ecgs_together_as_it_drafts_them_alone() {
    let bundle = Bundle::load(&shipped(), &Device::Cpu).unwrap();
    let drafter = BundleDrafter::new(bundle.into(), DecodeOptions::default());
    let ecgs = inputs();
    let together: Vec<String> = drafter
        .draft(&ecgs)
        .unwrap()
        .into_iter()
        .map(|draft| draft.text)
        .collect();
    let alone = |ecg: &EcgInput| drafter.draft(std::slice::from_ref(ecg)).unwrap().remove(0).text;
    assert_eq!(together, ecgs.iter().map(alone).collect::<Vec<_>>());
}

#[test]
fn a_bundle_with_a_flipped_byte_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    copy(&shipped(), dir.path());
    let path = dir.path().join(ENCODER);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = Bundle::load(dir.path(), &Device::Cpu)
        .err()
        .expect("the encoder is not the manifest's");
    assert!(error.to_string().contains(ENCODER), "{error}");
    assert!(dir.path().join(MANIFEST).is_file());
}
