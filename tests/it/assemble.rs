//! Bundles made of a Hugging Face checkpoint, an encoder and an adapter.
//!
//! Place: on the small golden decoders, with a tokenizer that lacks the template's special tokens. Invariant: the base gives the
//! logits it gave before, the bundle drafts, and what was not recorded does not load.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use model::architecture::Architecture;
use model::assemble::{Parts, assemble};
use model::backbone::{Backbone, BackboneConfig};
use model::bundle::{self, Bundle, Manifest};
use model::config::{Block, EncoderConfig, ResnetConfig, Trunk, VimConfig, VitConfig};
use model::decoder::Decoder;
use model::evidence::Evidence;
use model::fusion::Fusion;
use model::generate::DecodeOptions;
use model::init;
use model::meit::{Drafted, EcgInput};
use model::mode::Mode;
use model::seq2seq::{Seq2Seq, Seq2SeqConfig, Source};
use model::served::ServedWeights;
use model::weights::Weights;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::rig::copy;
use crate::rig::root;

/// A head with a bias, projected embeddings, shards, a tied head.
const BASES: [&str; 4] = [
    "gptj-full-rotary",
    "opt-post-norm",
    "mistral-window",
    "gpt2-inverse-layer",
];
const SPECIAL_TOKENS: usize = 4;

struct Made {
    dir: tempfile::TempDir,
    vocab_size: usize,
    base: PathBuf,
}

impl Made {
    fn out(&self) -> PathBuf {
        self.dir.path().join("bundle")
    }
}

fn golden(part: &str) -> PathBuf {
    root().join("tests/golden").join(part)
}

/// A tokenizer of `words` words: w0, which is any other word too, w1, ..
pub fn write_tokenizer(base: &Path, words: usize) {
    let vocabulary: serde_json::Map<String, serde_json::Value> =
        (0..words).map(|i| (format!("w{i}"), i.into())).collect();
    let tokenizer = serde_json::json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"}});
    std::fs::write(base.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

fn resnet(block: Block) -> Trunk {
    Trunk::Resnet1d(ResnetConfig {
        width: 2,
        stem_kernel: 7,
        stem_stride: 4,
        blocks: vec![1, 1],
        block,
        kernel: 3,
        groups: 1,
    })
}

fn encoder_config(dim: usize, trunk: Trunk) -> EncoderConfig {
    EncoderConfig {
        leads: 12,
        decimation: 4,
        trunk,
        hidden: 8,
        dim,
        tokens: 3,
        time_embedding: true,
    }
}

/// A base directory with a tokenizer of one word for each row of its embedding, and an encoder for `fusion`.
fn parts(from: &Path, fusion: &Fusion, trunk: Trunk) -> (Made, Manifest) {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base");
    copy(from, &base);
    let backbone = BackboneConfig::read(&base.join("config.json")).unwrap();
    write_tokenizer(&base, backbone.vocab_size());
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (dim, hidden_size) = match &backbone {
        BackboneConfig::Decoder(architecture) => (architecture.head_dim, architecture.hidden_size),
        BackboneConfig::Seq2Seq(config) => (7, config.hidden_size),
    };
    let config = encoder_config(dim, trunk);
    let mut tensors = init::encoder(&config, &mut rng).unwrap();
    tensors.extend(match &backbone {
        BackboneConfig::Decoder(architecture) => init::fusion(fusion, architecture, dim, &mut rng).unwrap(),
        BackboneConfig::Seq2Seq(_) => init::memory(hidden_size, dim, &mut rng).unwrap(),
    });
    let tensors = tensors.into_iter().collect();
    candle_core::safetensors::save(&tensors, dir.path().join("encoder.safetensors")).unwrap();
    let shipped = root().join("model/bundle/bundle.json");
    let mut manifest: Manifest = serde_json::from_slice(&std::fs::read(shipped).unwrap()).unwrap();
    (manifest.encoder, manifest.fusion) = (config, fusion.clone());
    (manifest.evidence, manifest.findings) = (Evidence::Measurements, Vec::new());
    let made = Made {
        dir,
        vocab_size: backbone.vocab_size(),
        base,
    };
    (made, manifest)
}

fn make(from: &Path, fusion: &Fusion, adapter: Option<&Path>) -> (Made, Bundle) {
    make_of(from, fusion, adapter, resnet(Block::Bottleneck))
}

fn make_of(from: &Path, fusion: &Fusion, adapter: Option<&Path>, trunk: Trunk) -> (Made, Bundle) {
    let (made, manifest) = parts(from, fusion, trunk);
    let encoder = made.dir.path().join("encoder.safetensors");
    let parts = Parts {
        base: &made.base,
        encoder: &encoder,
        adapter,
    };
    let bundle = assemble(&parts, manifest, &made.out(), ServedWeights::F32).unwrap();
    (made, bundle)
}

fn draft(bundle: &Bundle) -> usize {
    drafted(bundle, 5).len()
}

fn drafted(bundle: &Bundle, tokens_max: usize) -> Vec<Drafted> {
    let ecg = EcgInput {
        millivolts: (0..60_000).map(|i| ((i % 400) as f32 / 50.0).sin()).collect(),
        ..EcgInput::default()
    };
    let options = DecodeOptions {
        tokens_max,
        ..DecodeOptions::default()
    };
    bundle.drafting().draft(&[ecg], &options).unwrap()
}

/// The first token is as likely in half the memory as in f32.
#[track_caller]
fn check_halved(made: &Made, bundle: &Bundle) {
    let likely = |bundle: &Bundle| drafted(bundle, 1)[0].logprob_mean;
    let whole = likely(bundle);
    for weights in [ServedWeights::F16, ServedWeights::Bf16] {
        let half = Bundle::load_as(&made.out(), &Device::Cpu, weights).unwrap();
        let got = likely(&half);
        assert!((got - whole).abs() < 0.1, "{weights:?}: {got}, in f32 {whole}");
        assert_ne!(got, whole, "{weights:?}");
    }
}

#[test]
fn a_grown_vocabulary_leaves_the_logits_of_the_base_as_they_were() {
    for name in BASES {
        let (made, bundle) = make(&golden("decoders").join(name), &Fusion::default(), None);
        assert_eq!(draft(&bundle), 1, "{name}");
        check_halved(&made, &bundle);
        let v = made.vocab_size;
        let weights = Weights::load_checkpoint(&made.base, DType::F32, &Device::Cpu).unwrap();
        let architecture = Architecture::read(&made.base.join("config.json")).unwrap();
        let base = Decoder::load(&weights, &architecture).unwrap();
        let grown = bundle.drafting().model.backbone.decoder().unwrap();
        assert_eq!(grown.architecture().vocab_size, v + SPECIAL_TOKENS, "{name}");
        let ids = Tensor::new(&[[3u32, 9, 17]], &Device::Cpu).unwrap();
        let logits = |d: &Decoder| d.forward(&ids, None, &mut d.cache(), &Mode::Eval).unwrap();
        let of_old_tokens = logits(grown).narrow(2, 0, v).unwrap();
        let error = (of_old_tokens - logits(&base))
            .unwrap()
            .abs()
            .unwrap()
            .max_all()
            .unwrap();
        assert!(error.to_scalar::<f32>().unwrap() < 1e-5, "{name}");
    }
}

#[test]
fn an_encoder_decoder_makes_a_bundle_that_drafts_and_keeps_the_logits_of_its_base() {
    for name in ["bart-scaled", "t5-gated"] {
        let (made, bundle) = make(&golden("seq2seq").join(name), &Fusion::Memory, None);
        assert_eq!(draft(&bundle), 1, "{name}");
        check_halved(&made, &bundle);
        let Backbone::Seq2Seq(grown) = &bundle.drafting().model.backbone else {
            panic!("{name} is an encoder-decoder");
        };
        let v = made.vocab_size;
        assert_eq!(grown.config().vocab_size, v + SPECIAL_TOKENS, "{name}");
        let weights = Weights::load_checkpoint(&made.base, DType::F32, &Device::Cpu).unwrap();
        let config = std::fs::read(made.base.join("config.json")).unwrap();
        let config = Seq2SeqConfig::from_json(&serde_json::from_slice(&config).unwrap()).unwrap();
        let base = Seq2Seq::load(&weights, &config).unwrap();
        let ids = Tensor::new(&[[3u32, 9, 17]], &Device::Cpu).unwrap();
        let logits = |model: &Seq2Seq| {
            let text = Source {
                ids: &ids,
                lengths: &[3],
            };
            let memory = model.memory(&text, None, &Mode::Eval).unwrap();
            model
                .forward(&ids, &memory, &mut model.cache_for(0), &Mode::Eval)
                .unwrap()
        };
        let error = (logits(grown).narrow(2, 0, v).unwrap() - logits(&base)).unwrap();
        let error = error.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(error < 1e-5, "{name}: {error}");
    }
}

#[test]
fn a_fusion_that_the_base_does_not_have_is_named() {
    for (base, fusion, named) in [
        (
            "seq2seq/t5",
            Fusion::default(),
            "t5 is an encoder-decoder, which takes memory alone",
        ),
        (
            "decoders/mistral-window",
            Fusion::Memory,
            "fusion.kind is memory: mistral has no encoder",
        ),
    ] {
        let of_base = if fusion == Fusion::Memory {
            Fusion::Input
        } else {
            Fusion::Memory
        };
        let (made, mut manifest) = parts(&golden(base), &of_base, resnet(Block::Basic));
        manifest.fusion = fusion;
        let parts = Parts {
            base: &made.base,
            encoder: &made.dir.path().join("encoder.safetensors"),
            adapter: None,
        };
        let error = assemble(&parts, manifest, &made.out(), ServedWeights::F32)
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn every_fusion_makes_a_bundle_that_drafts() {
    for fusion in [
        Fusion::default(),
        Fusion::Prefix {
            layers: Some([1].into()),
        },
        Fusion::Input,
        Fusion::CrossAttention { every: 2 },
    ] {
        let (made, bundle) = make(&golden("decoders/mistral-window"), &fusion, None);
        assert_eq!((draft(&bundle), &bundle.manifest().fusion), (1, &fusion));
        check_halved(&made, &bundle);
    }
}

#[test]
fn every_trunk_makes_a_bundle_that_drafts() {
    let vit = VitConfig {
        width: 8,
        layers: 2,
        heads: 2,
        mlp: 12,
        patch: 50,
        patches: 25,
    };
    let vim = VimConfig {
        width: 8,
        layers: 2,
        inner: 16,
        state: 4,
        rank: 2,
        conv: 4,
        patch: 50,
        patches: 25,
    };
    for trunk in [resnet(Block::Basic), Trunk::Vit1d(vit), Trunk::Vim(vim)] {
        let (_made, bundle) = make_of(
            &golden("decoders/mistral-window"),
            &Fusion::default(),
            None,
            trunk.clone(),
        );
        assert_eq!((draft(&bundle), &bundle.manifest().encoder.trunk), (1, &trunk));
    }
}

#[test]
fn a_bundle_of_base_and_adapter_names_both() {
    let lora = golden("lora/llama-one-kv-head");
    let (made, bundle) = make(&lora, &Fusion::default(), Some(&lora.join("adapter")));
    assert_eq!(draft(&bundle), 1);
    assert!(bundle.lineage().adapter_sha256.is_some());
    assert!(made.out().join(bundle::ADAPTER).join("adapter_config.json").exists());
}

#[test]
fn a_shard_that_changed_stops_the_bundle() {
    let (made, manifest) = parts(
        &golden("decoders/mistral-window"),
        &Fusion::default(),
        resnet(Block::Bottleneck),
    );
    // a tokenizer with the template's tokens in place of words: nothing grows, so the shards are copied
    let path = made.base.join("tokenizer.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = [
        ("w3", "<|user|>"),
        ("w4", "<|assistant|>"),
        ("w5", "</s>"),
        ("w6", "<pad>"),
    ]
    .iter()
    .fold(text, |text, (word, token)| {
        text.replace(&format!("\"{word}\""), &format!("\"{token}\""))
    });
    std::fs::write(&path, text).unwrap();
    let encoder = made.dir.path().join("encoder.safetensors");
    let parts = Parts {
        base: &made.base,
        encoder: &encoder,
        adapter: None,
    };
    let whole = assemble(&parts, manifest.clone(), &made.out(), ServedWeights::F32).unwrap();
    // the base is the same, whatever the index calls its shards
    let index = made.base.join("model.safetensors.index.json");
    let names = std::fs::read_to_string(&index).unwrap();
    std::fs::write(&index, names.replace("model-0", "part-0")).unwrap();
    for number in ["1", "2"] {
        let shard = |name: &str| made.base.join(format!("{name}-0000{number}-of-00002.safetensors"));
        std::fs::rename(shard("model"), shard("part")).unwrap();
    }
    let renamed = assemble(&parts, manifest, &made.dir.path().join("renamed"), ServedWeights::F32).unwrap();
    assert_eq!(renamed.lineage().base_sha256, whole.lineage().base_sha256);
    assert!(made.dir.path().join("renamed/part-00001-of-00002.safetensors").exists());
    let shard = made.out().join("model-00002-of-00002.safetensors");
    let mut bytes = std::fs::read(&shard).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&shard, bytes).unwrap();
    let error = Bundle::load(&made.out(), &Device::Cpu).err().unwrap().to_string();
    assert!(error.contains("model-00002-of-00002.safetensors has sha256"), "{error}");
}

/// Names in the directory of what was made.
fn left(made: &Made) -> Vec<String> {
    let entries = std::fs::read_dir(made.dir.path()).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[track_caller]
fn check_refused(made: &Made, manifest: Manifest, named: &str) {
    let parts = Parts {
        base: &made.base,
        encoder: &made.dir.path().join("encoder.safetensors"),
        adapter: None,
    };
    let error = assemble(&parts, manifest, &made.out(), ServedWeights::F32)
        .err()
        .unwrap();
    let source = std::error::Error::source(&error).map(ToString::to_string);
    let text = format!("{error}: {source:?}");
    assert!(text.contains(named), "{text}");
}

#[test]
fn a_bundle_that_cannot_be_made_leaves_nothing_and_replaces_nothing() {
    let (made, mut manifest) = parts(
        &golden("decoders/gpt2-inverse-layer"),
        &Fusion::default(),
        resnet(Block::Basic),
    );
    std::fs::create_dir(made.out()).unwrap();
    std::fs::write(made.out().join("notes"), "mine").unwrap();
    check_refused(&made, manifest.clone(), "is there and not empty");
    assert_eq!(std::fs::read_to_string(made.out().join("notes")).unwrap(), "mine");
    std::fs::remove_dir_all(made.out()).unwrap();
    // loads, but its 40 positions are too few for the prompt
    let prompt = std::mem::replace(&mut manifest.prompt, "w1 ".repeat(60));
    check_refused(&made, manifest.clone(), "40");
    assert_eq!(left(&made), ["base", "encoder.safetensors"]);
    manifest.prompt = prompt;
    let encoder = made.dir.path().join("encoder.safetensors");
    let bytes = std::fs::read(&encoder).unwrap();
    std::fs::write(&encoder, &bytes[..bytes.len() - 1]).unwrap();
    check_refused(&made, manifest, "incomplete metadata");
    assert_eq!(left(&made), ["base", "encoder.safetensors"]);
}

/// Loads a bundle whose manifest was changed.
#[track_caller]
fn check_changed(made: &Made, change: impl FnOnce(&mut serde_json::Value), named: &str) {
    let path = made.out().join(bundle::MANIFEST);
    let before = std::fs::read(&path).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_slice(&before).unwrap();
    change(&mut manifest);
    std::fs::write(&path, manifest.to_string()).unwrap();
    let error = Bundle::load(&made.out(), &Device::Cpu).err().unwrap().to_string();
    assert!(error.contains(named), "{error}");
    std::fs::write(&path, before).unwrap();
}

#[test]
fn a_bundle_whose_parts_do_not_fit_each_other_does_not_load_and_names_what() {
    let vit = VitConfig {
        width: 8,
        layers: 1,
        heads: 2,
        mlp: 12,
        patch: 50,
        patches: 25,
    };
    let base = golden("decoders/mistral-window");
    let (made, bundle) = make_of(&base, &Fusion::default(), None, Trunk::Vit1d(vit));
    check_changed(
        &made,
        |m| m["clip_mv"] = 0.into(),
        "clip_mv is 0: must be a finite number",
    );
    check_changed(
        &made,
        |m| m["encoder"]["leads"] = 11.into(),
        "encoder.leads is 11: must be the 12 of lead_order",
    );
    check_changed(
        &made,
        |m| m["lead_order"][3] = m["lead_order"][7].clone(),
        "each lead must be there once",
    );
    check_changed(
        &made,
        |m| m["encoder"]["decimation"] = 5.into(),
        "encoder.trunk.patches is 25: 5000 samples with decimation 5 have 20 patches of 50",
    );
    for part in ["../bundle.json", "adapter/../../bundle.json", "/etc/hostname"] {
        check_changed(&made, |m| m["parts"][part] = "0".into(), "must be a plain file name");
    }
    let path = made.out().join(bundle::TOKENIZER);
    let mut tokenizer: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    tokenizer["model"]["vocab"]["far"] = 500.into();
    std::fs::write(&path, tokenizer.to_string()).unwrap();
    bundle::seal(&made.out(), bundle.manifest().clone()).unwrap();
    let error = Bundle::load(&made.out(), &Device::Cpu).err().unwrap().to_string();
    assert!(error.contains("tokenizer.json has ids up to 500"), "{error}");
}

#[test]
fn a_shard_outside_of_the_base_is_never_read() {
    let (made, manifest) = parts(
        &golden("decoders/mistral-window"),
        &Fusion::default(),
        resnet(Block::Basic),
    );
    let path = made.base.join("model.safetensors.index.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("model-00001", "../base/model-00001")).unwrap();
    check_refused(&made, manifest, "must be a plain file name");
}
