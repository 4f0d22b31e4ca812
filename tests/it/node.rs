//! The shipped bundle: loads, refuses to load when a byte differs, and drafts the same alone or in a batch.
//!
//! Place: model/bundle, read as `meit-node` reads it. Invariant: what the texts say is for the pipeline's evaluation.

use std::path::PathBuf;

use candle_core::Device;
use ecg::segment::Segment;
use model::bundle::{Bundle, ENCODER, MANIFEST};
use model::generate::DecodeOptions;
use model::meit::EcgInput;
use model::slots::SlotLimits;
use node::drafter::{BundleDrafter, DraftText, Drafter};

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
fn a_desk_drafts_what_comes_while_others_are_drafted_as_each_alone() {
    let bundle = Bundle::load(&shipped(), &Device::Cpu).unwrap();
    let drafter = BundleDrafter::new(bundle.into(), DecodeOptions::default());
    let ecgs = inputs();
    let written = |mut text: DraftText| {
        // steps are timed; their number is that of the tokens, and one for the end
        assert_eq!(text.steps.len(), text.tokens as usize + 1);
        text.steps.clear();
        text
    };
    let alone = |ecg: &EcgInput| written(drafter.draft(std::slice::from_ref(ecg)).unwrap().remove(0));
    let alone: Vec<DraftText> = ecgs.iter().map(alone).collect();
    // room for all, for none, and no slots
    for tokens in [512, 20, 0] {
        let mut desk = drafter.desk(SlotLimits { slots: 2, tokens }).unwrap();
        let mut come = ecgs.iter().cloned().enumerate();
        desk.admit(come.by_ref().take(2).collect()).unwrap();
        let mut texts = desk.step().unwrap();
        let mut steps = 1;
        while texts.is_empty() {
            texts = desk.step().unwrap();
            steps += 1;
        }
        assert_eq!(steps > 1, tokens == 512, "{steps} steps in slots of {tokens} tokens");
        desk.admit(come.collect()).unwrap();
        while texts.len() < ecgs.len() {
            texts.extend(desk.step().unwrap());
        }
        texts.sort_by_key(|&(name, _)| name);
        let texts: Vec<DraftText> = texts.into_iter().map(|(_, text)| written(text)).collect();
        assert_eq!(texts, alone, "slots of {tokens} tokens");
    }
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
