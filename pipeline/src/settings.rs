//! Settings of training; the defaults are those of the shipped bundle.
//!
//! Place: parsed once from the command line, written into the checkpoint. Invariant: settings that pass `validate` describe a
//! run that can be repeated bit for bit.

mod trunk;

use std::path::PathBuf;

use anyhow::ensure;
use model::config::{Block, DecoderConfig, EncoderConfig, ResnetConfig, Trunk};
use model::evidence::Evidence;
use model::findings::MorphologyConfig;
use model::fusion::Fusion;
use serde::{Deserialize, Serialize};

pub use self::trunk::EncoderTrunk;
use crate::prompts::Prompts;

/// Everything that decides the outcome of a training run, apart from the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct TrainSettings {
    /// Seed of weights, order, augmentation and dropout.
    #[arg(long, default_value_t = 20_261_124)]
    pub seed: u64,
    /// Language model to start from instead of fresh weights: a directory with config.json, tokenizer.json and model.safetensors (or
    /// an index and its shards) as Hugging Face has them. A decoder gets the ECG as a prefix; BART and T5 get it beside their
    /// encoder's output. Its sizes are its own: vocabulary, mlp and layers then mean nothing.
    #[arg(long, value_name = "HF_DIR")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<PathBuf>,
    /// Weights to start the encoder from, as of self-supervised training: safetensors whose tensors have the encoder's names (of the trunk,
    /// and of the projector where it has any). What it lacks starts fresh.
    #[arg(long, value_name = "FILE")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder_weights: Option<PathBuf>,
    /// Size of the vocabulary, special tokens included.
    #[arg(long, default_value_t = 1536)]
    pub vocabulary: usize,
    /// Hidden width of the decoder.
    #[arg(long, default_value_t = 192)]
    pub hidden: usize,
    /// Width of the decoder's gated layer.
    #[arg(long, default_value_t = 512)]
    pub mlp: usize,
    /// Decoder layers.
    #[arg(long, default_value_t = 3)]
    pub layers: usize,
    /// Attention heads.
    #[arg(long, default_value_t = 4)]
    pub heads: usize,
    /// Channels of the encoder's stem.
    #[arg(long, default_value_t = 32)]
    pub width: usize,
    /// Basic blocks of each encoder stage.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1, 1, 1])]
    pub blocks: Vec<usize>,
    /// Taps of the blocks' convolutions.
    #[arg(long, default_value_t = 7)]
    pub kernel: usize,
    /// Groups of channels that the blocks' convolutions keep apart.
    #[arg(long, default_value_t = 1)]
    pub groups: usize,
    /// Neighbouring samples averaged into one before the encoder: 4 turns 500 Hz into 125 Hz.
    #[arg(long, default_value_t = 4)]
    pub decimation: usize,
    /// Samples between two outputs of the encoder's stem, after the decimation.
    #[arg(long, default_value_t = 2)]
    pub stem_stride: usize,
    /// What turns the samples into frames: resnet1d (of the sizes above), vit1d or vim (of about as many parameters), or JSON as in
    /// bundle.json, {"kind": "vit1d", ..}, which sees 5000 / decimation samples.
    #[arg(
        long = "encoder",
        alias = "trunk",
        value_name = "KIND|JSON",
        default_value = "resnet1d"
    )]
    #[serde(default)]
    pub trunk: EncoderTrunk,
    /// How the ECG enters the decoder: prefix, input, cross-attention (before every layer), or JSON as in bundle.json; without it a
    /// prefix in every layer, or memory for BART and T5.
    #[arg(long, value_name = "KIND|JSON")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fusion: Option<Fusion>,
    /// ECG prefix tokens, P.
    #[arg(long, default_value_t = 20)]
    pub tokens: usize,
    /// Width of the layer through which the head of the statements sees the recording's morphology.
    #[arg(long, default_value_t = 192)]
    pub morphology: usize,
    /// Steps on reports alone, of the training folds with or without a recording.
    #[arg(long, default_value_t = 400)]
    pub text_steps: u64,
    /// Steps of the encoder alone, on the statements of recordings and reports.
    #[arg(long, default_value_t = 2400)]
    pub label_steps: u64,
    /// Steps on recordings with their reports.
    #[arg(long, default_value_t = 1000)]
    pub steps: u64,
    /// Reports a step while training on text.
    #[arg(long, default_value_t = 48)]
    pub text_batch: usize,
    /// Recordings a step while training on statements.
    #[arg(long, default_value_t = 32)]
    pub label_batch: usize,
    /// Recordings a step while training on reports.
    #[arg(long, default_value_t = 16)]
    pub batch: usize,
    /// Peak learning rate on text.
    #[arg(long, default_value_t = 2e-3)]
    pub text_lr: f64,
    /// Peak learning rate on statements.
    #[arg(long, default_value_t = 3e-3)]
    pub label_lr: f64,
    /// Peak learning rate of the projector, on recordings with their reports.
    #[arg(long, default_value_t = 2e-3)]
    pub projector_lr: f64,
    /// Peak learning rate of the encoder, on recordings with their reports.
    #[arg(long, default_value_t = 2e-4)]
    pub encoder_lr: f64,
    /// Peak learning rate of the decoder while it learns to read the ECG.
    #[arg(long, default_value_t = 5e-4)]
    pub decoder_lr: f64,
    /// Share of a stage's steps over which its rate rises from zero.
    #[arg(long, default_value_t = 0.05)]
    pub warmup: f64,
    /// Decoupled weight decay of matrices.
    #[arg(long, default_value_t = 0.05)]
    pub weight_decay: f64,
    /// Largest global norm of a step's gradient.
    #[arg(long, default_value_t = 1.0)]
    pub clip_norm: f64,
    /// Dropout in the decoder and the projector.
    #[arg(long, default_value_t = 0.1)]
    pub dropout: f32,
    /// Dropout of what the heads of the statements see.
    #[arg(long, default_value_t = 0.5)]
    pub label_dropout: f32,
    /// Weight of the statements' loss beside the reports'.
    #[arg(long, default_value_t = 1.0)]
    pub label_weight: f64,
    /// Statements with fewer training recordings than this are no label.
    #[arg(long, default_value_t = 20)]
    pub positives_min: usize,
    /// Steps between two validations (on fold 9) with a checkpoint after each.
    #[arg(long, default_value_t = 100)]
    pub validate_every: u64,
    /// Prompt of every sample, and of every draft.
    #[arg(long, default_value = "write the report of this ecg")]
    pub prompt: String,
    /// Prompts that the samples draw theirs from: 1 (--prompt alone), 128, 256 or 512. Drafts have --prompt.
    #[arg(long, default_value_t = 1)]
    #[serde(default = "one_prompt")]
    pub prompts: usize,
    /// No instruction: the template's markers stand alone between ECG and report, so --prompt, --prompts and --evidence mean nothing.
    #[arg(long, conflicts_with_all = ["prompt", "prompts", "evidence"])]
    #[serde(default)]
    pub no_instruction: bool,
    /// What the prompt tells beside the ECG: none, measurements, findings as well, or rated_findings: a word for the rate too.
    #[arg(long, default_value_t = Evidence::RatedFindings)]
    pub evidence: Evidence,
    /// Probability that a training step shows a recording without its evidence.
    #[arg(long, default_value_t = 0.15)]
    pub evidence_dropout: f32,
    /// Probability that a training prompt misses a statement of its report, as the encoder's head may.
    #[arg(long, default_value_t = 0.15)]
    pub finding_missed: f32,
    /// Statements that a training prompt draws too many, on average; some are its report's anyway.
    #[arg(long, default_value_t = 0.1)]
    pub finding_made_up: f32,
    /// Name in the bundle's manifest.
    #[arg(long, default_value = "meit-small-ptbxl")]
    pub name: String,
}

fn one_prompt() -> usize {
    1
}

impl TrainSettings {
    /// # Errors
    /// A value outside its bound, with both.
    pub fn validate(&self) -> anyhow::Result<()> {
        ensure!(
            self.heads > 0 && self.hidden.is_multiple_of(self.heads),
            "hidden is {}: must be a multiple of heads, {}",
            self.hidden,
            self.heads
        );
        ensure!(
            (self.hidden / self.heads).is_multiple_of(2),
            "hidden / heads is {}: must be even",
            self.hidden / self.heads
        );
        ensure!(self.batch > 1, "batch is {}: batch norm needs at least 2", self.batch);
        ensure!(
            self.label_batch > 1,
            "label_batch is {}: batch norm needs at least 2",
            self.label_batch
        );
        ensure!(self.text_batch > 0, "text_batch is 0: must be at least 1");
        ensure!(
            !self.blocks.is_empty() && self.blocks.iter().all(|&n| n > 0),
            "blocks is {:?}: every stage needs a block",
            self.blocks
        );
        ensure!(self.tokens > 0, "tokens is 0: must be at least 1");
        ensure!(self.morphology > 0, "morphology is 0: must be at least 1");
        for (name, share) in [
            ("dropout", f64::from(self.dropout)),
            ("label_dropout", f64::from(self.label_dropout)),
            ("warmup", self.warmup),
        ] {
            ensure!((0.0..1.0).contains(&share), "{name} is {share}: must be in 0..1");
        }
        for (name, probability) in [
            ("evidence_dropout", self.evidence_dropout),
            ("finding_missed", self.finding_missed),
        ] {
            ensure!(
                (0.0..=1.0).contains(&probability),
                "{name} is {probability}: must be in 0..=1"
            );
        }
        ensure!(
            (0.0..=10.0).contains(&self.finding_made_up),
            "finding_made_up is {}: must be in 0..=10",
            self.finding_made_up
        );
        Prompts::of_size(self.prompts)?;
        ensure!(self.validate_every > 0, "validate_every is 0: must be at least 1");
        Ok(self.encoder().validate()?)
    }

    /// Sizes at which a run takes seconds, for tests.
    #[doc(hidden)]
    pub fn tiny() -> Self {
        Self {
            seed: 7,
            base: None,
            encoder_weights: None,
            vocabulary: 320,
            hidden: 16,
            mlp: 24,
            layers: 2,
            heads: 2,
            width: 2,
            blocks: vec![1, 1],
            kernel: 3,
            groups: 2,
            decimation: 2,
            stem_stride: 4,
            trunk: EncoderTrunk::default(),
            fusion: None,
            tokens: 4,
            morphology: 6,
            text_steps: 3,
            label_steps: 3,
            steps: 5,
            text_batch: 4,
            label_batch: 4,
            batch: 4,
            text_lr: 5e-3,
            label_lr: 5e-3,
            projector_lr: 5e-3,
            encoder_lr: 5e-3,
            decoder_lr: 5e-3,
            warmup: 0.1,
            weight_decay: 0.01,
            clip_norm: 1.0,
            dropout: 0.1,
            label_dropout: 0.1,
            label_weight: 1.0,
            positives_min: 3,
            validate_every: 2,
            prompt: "write the report of this ecg".to_owned(),
            prompts: 1,
            no_instruction: false,
            evidence: Evidence::RatedFindings,
            evidence_dropout: 0.15,
            finding_missed: 0.3,
            finding_made_up: 0.3,
            name: "tiny".to_owned(),
        }
    }

    /// The prompt of drafts; empty without an instruction.
    pub fn prompt(&self) -> &str {
        if self.no_instruction { "" } else { &self.prompt }
    }

    /// What the prompt tells; nothing without an instruction.
    pub fn evidence(&self) -> Evidence {
        if self.no_instruction {
            Evidence::None
        } else {
            self.evidence
        }
    }

    /// The prompts that samples draw from.
    ///
    /// # Errors
    /// Another number than 1, 128, 256 or 512.
    pub fn prompt_set(&self) -> anyhow::Result<Prompts> {
        match self.prompts {
            1 => Ok(Prompts::single(self.prompt())),
            size => Prompts::of_size(size),
        }
    }

    /// The head's second sight of a recording.
    pub fn morphology(&self) -> MorphologyConfig {
        MorphologyConfig {
            hidden: self.morphology,
        }
    }

    /// Encoder with P time tokens.
    pub fn encoder(&self) -> EncoderConfig {
        EncoderConfig {
            leads: ecg::LEADS,
            decimation: self.decimation,
            trunk: self.trunk(),
            hidden: 4 * self.hidden / self.heads * 2,
            dim: self.hidden / self.heads,
            tokens: self.tokens,
            time_embedding: true,
        }
    }

    fn trunk(&self) -> Trunk {
        let resnet = ResnetConfig {
            width: self.width,
            stem_kernel: 15,
            stem_stride: self.stem_stride,
            blocks: self.blocks.clone(),
            block: Block::Basic,
            kernel: self.kernel,
            groups: self.groups,
        };
        self.trunk.of(resnet, ecg::SEGMENT_SAMPLES / self.decimation.max(1))
    }

    /// A LLaMA decoder with tied embeddings, for a tokenizer of `vocab_size` tokens.
    pub fn decoder(&self, vocab_size: usize, stop: u32, pad: u32) -> DecoderConfig {
        DecoderConfig {
            model_type: "llama".to_owned(),
            vocab_size,
            hidden_size: self.hidden,
            intermediate_size: self.mlp,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            num_key_value_heads: Some(self.heads),
            head_dim: None,
            max_position_embeddings: Some(512),
            rms_norm_eps: 1e-5,
            tie_word_embeddings: true,
            rope_theta: Some(10_000.0),
            rope_scaling: None,
            rope_parameters: None,
            bos_token_id: None,
            eos_token_id: Some(stop),
            pad_token_id: Some(pad),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        settings: TrainSettings,
    }

    fn parsed(line: &[&str]) -> Result<TrainSettings, clap::Error> {
        use clap::Parser as _;
        Line::try_parse_from([&["train"], line].concat()).map(|line| line.settings)
    }

    #[test]
    fn an_encoder_is_named_by_its_kind_and_the_kinds_are_of_about_one_size() {
        let of = |kind: &str| {
            let settings = parsed(&["--encoder", kind]).unwrap();
            settings.validate().unwrap();
            settings.encoder()
        };
        assert_eq!(of("resnet1d"), parsed(&[]).unwrap().encoder());
        let resnet = of("resnet1d").parameters() as f64;
        for kind in ["vit1d", "vim"] {
            let ratio = of(kind).parameters() as f64 / resnet;
            assert!((0.8..1.25).contains(&ratio), "{kind}: {ratio}");
        }
        let sized = r#"{"kind": "vit1d", "width": 8, "layers": 1, "heads": 2, "mlp": 8, "patch": 25, "patches": 50}"#;
        assert!(of(sized).parameters() < of("vit1d").parameters());
        let unknown = parsed(&["--encoder", "resnet2d"]).unwrap_err().to_string();
        assert!(unknown.contains("resnet2d"), "{unknown}");
    }

    #[test]
    fn without_an_instruction_nothing_is_told() {
        let bare = parsed(&["--no-instruction"]).unwrap();
        assert_eq!((bare.prompt(), bare.evidence()), ("", Evidence::None));
        assert!(parsed(&["--no-instruction", "--prompts", "128"]).is_err());
        let many = parsed(&["--prompts", "128"]).unwrap();
        assert_eq!(many.prompt_set().unwrap().all().len(), 128);
        let wrong = parsed(&["--prompts", "3"]).unwrap().validate().unwrap_err().to_string();
        assert!(wrong.contains('3') && wrong.contains("512"), "{wrong}");
    }

    #[test]
    fn settings_are_read_as_they_were_written_and_those_of_earlier_versions_too() {
        let settings = parsed(&["--encoder", "vim", "--fusion", "input"]).unwrap();
        let json = serde_json::to_value(&settings).unwrap();
        assert_eq!(json["trunk"], "vim");
        assert_eq!(serde_json::from_value::<TrainSettings>(json.clone()).unwrap(), settings);
        let mut earlier = json;
        for key in ["trunk", "fusion", "prompts", "no_instruction"] {
            earlier.as_object_mut().unwrap().remove(key);
        }
        assert_eq!(
            serde_json::from_value::<TrainSettings>(earlier).unwrap(),
            parsed(&[]).unwrap()
        );
    }
}
