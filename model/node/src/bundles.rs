//! `meit-node bundle`: makes, checks and shows bundles.
//!
//! Place: before a node is started; reads and writes files alone. Invariant: what `create` leaves behind was loaded once and drafted,
//! and `verify` loads as the node does and drafts.

use std::path::PathBuf;

use anyhow::Context as _;
use candle_core::{DType, Device};
use ecg::lead::Lead;
use model::assemble::{Parts, assemble};
use model::backbone::{Backbone, BackboneConfig};
use model::bundle::{Bundle, DECODER_CONFIG, Manifest};
use model::config::EncoderConfig;
use model::fusion::Fusion;
use model::served::ServedWeights;
use model::smoke;
use model::weights::Weights;

/// What to do with a bundle.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Makes a bundle of a Hugging Face checkpoint, an encoder and, where given, an adapter.
    Create(Create),
    /// Loads a bundle as the node does, hashes and shapes checked, drafts the first tokens of a synthetic ECG, and prints its id.
    Verify(Existing),
    /// Prints a bundle's manifest with its id, its decoder and its adapter.
    Show(Existing),
}

/// A bundle that is there.
#[derive(clap::Args)]
pub struct Existing {
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    loaded: Loaded,
}

/// How a bundle is loaded to be checked.
#[derive(clap::Args)]
pub struct Loaded {
    /// Type of the language model, as in node.weights: f32, f16, bf16, q8_0 or q4_k.
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    weights: ServedWeights,
}

/// Parts of a bundle to be made.
#[derive(clap::Args)]
pub struct Create {
    /// Directory with config.json, tokenizer.json and model.safetensors, or an index and its shards.
    #[arg(long, value_name = "HF_DIR")]
    base: PathBuf,
    /// safetensors of encoder and projector, and of a fusion's own weights.
    #[arg(long, value_name = "FILE")]
    encoder: PathBuf,
    /// JSON of the encoder's sizes; without it they are read from the tensors, as of a reference checkpoint.
    #[arg(long, value_name = "FILE")]
    encoder_config: Option<PathBuf>,
    /// ECG tokens, P, where no encoder config says so.
    #[arg(long, default_value_t = 1)]
    tokens: usize,
    /// Adapter directory as peft writes it.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// How the ECG enters the language model: prefix, input, cross-attention, memory, or JSON as in bundle.json; without it a prefix
    /// in every layer, or memory where the base is an encoder-decoder.
    #[arg(long, value_name = "KIND|JSON")]
    fusion: Option<Fusion>,
    #[arg(long)]
    name: String,
    /// Prompt of every draft.
    #[arg(long, default_value = "write the report of this ecg")]
    prompt: String,
    /// Millivolts beyond which the input is clipped.
    #[arg(long, default_value_t = 5.0)]
    clip_mv: f32,
    /// Directory of the new bundle; must be missing or empty.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    loaded: Loaded,
}

impl Command {
    /// # Errors
    /// A part that cannot be read or written; a bundle that does not load or draft.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Command::Create(create) => create.run(),
            Command::Verify(existing) => {
                let bundle = load(&existing)?;
                smoke::check(bundle.drafting()).with_context(|| format!("draft with bundle {}", bundle.id()))?;
                println!("{}", bundle.id());
                Ok(())
            }
            Command::Show(existing) => show(&load(&existing)?),
        }
    }
}

fn load(Existing { dir, loaded }: &Existing) -> anyhow::Result<Bundle> {
    let bundle = Bundle::load_as(dir, &Device::Cpu, loaded.weights);
    bundle.with_context(|| format!("load bundle {}", dir.display()))
}

fn show(bundle: &Bundle) -> anyhow::Result<()> {
    let drafting = bundle.drafting();
    let adapter = drafting.adapter.as_ref();
    let adapter = adapter.map(|adapter| {
        serde_json::json!({"sha256": adapter.sha256(), "parameters": adapter.parameters(), "modules": adapter.modules().count(),
            "r": adapter.config().r, "lora_alpha": adapter.config().lora_alpha})
    });
    let json = serde_json::json!({
        "id": bundle.id(),
        "decoder": sizes(&drafting.model.backbone),
        "adapter": adapter,
        "manifest": bundle.manifest(),
    });
    println!("{}", serde_json::to_string_pretty(&json)?);
    Ok(())
}

/// Sizes of the language model, for people.
fn sizes(backbone: &Backbone) -> serde_json::Value {
    match backbone {
        Backbone::Decoder(decoder) => {
            let a = decoder.architecture();
            serde_json::json!({"model_type": a.model_type, "hidden_size": a.hidden_size, "layers": a.layers.len(), "heads": a.heads,
                "kv_heads": a.kv_heads, "vocab_size": a.vocab_size})
        }
        Backbone::Seq2Seq(model) => {
            let c = model.config();
            serde_json::json!({"model_type": c.model_type, "hidden_size": c.hidden_size, "layers": c.decoder.layers,
                "heads": c.decoder.heads, "encoder_layers": c.encoder.layers, "encoder_heads": c.encoder.heads,
                "vocab_size": c.vocab_size})
        }
    }
}

impl Create {
    fn run(self) -> anyhow::Result<()> {
        let fusion = match &self.fusion {
            Some(fusion) => fusion.clone(),
            None => BackboneConfig::read(&self.base.join(DECODER_CONFIG))?.fusion_default(),
        };
        let manifest = Manifest {
            format: String::new(),
            name: self.name.clone(),
            encoder: self.encoder_config()?,
            fusion,
            lead_order: Lead::ALL.iter().map(|lead| lead.name().to_owned()).collect(),
            clip_mv: self.clip_mv,
            chain: ecg::dsp::DspConfig::default().chain_name(),
            prompt: self.prompt.clone(),
            evidence: Default::default(),
            findings: Default::default(),
            morphology: None,
            parts: Default::default(),
        };
        let parts = Parts {
            base: &self.base,
            encoder: &self.encoder,
            adapter: self.adapter.as_deref(),
        };
        let bundle = assemble(&parts, manifest, &self.out, self.loaded.weights).context("make the bundle")?;
        println!("{}", bundle.id());
        Ok(())
    }

    fn encoder_config(&self) -> anyhow::Result<EncoderConfig> {
        let Some(path) = &self.encoder_config else {
            let weights = Weights::load(&[&self.encoder], DType::F32, &Device::Cpu).context("read --encoder")?;
            return EncoderConfig::from_weights(&weights, self.tokens).context("read sizes from --encoder");
        };
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))
    }
}
