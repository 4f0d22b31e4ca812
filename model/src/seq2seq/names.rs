//! Where BART's and T5's checkpoints keep their weights.
//!
//! Place: between a config and the modules. Invariant: names are transformers' own, so checkpoints load without renaming and
//! adapters find their modules.

/// Module names, below the root of the checkpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    /// Name of everything but the head; checkpoints of the bare model leave it out.
    pub body: &'static str,
    /// A layer is `<stack>.<layers>.<i>`.
    pub layers: &'static str,
    pub encoder: LayerNames,
    pub decoder: LayerNames,
    /// Query, key, value and output, below an attention.
    pub qkvo: [&'static str; 4],
    /// Below the feed-forward layer; the gated have one.
    pub gate: Option<&'static str>,
    pub up: &'static str,
    pub down: &'static str,
    /// Below a stack.
    pub learned_positions: &'static str,
    pub embed_norm: Option<&'static str>,
    pub final_norm: Option<&'static str>,
    /// Below the first layer's self-attention.
    pub relative_bias: &'static str,
}

/// Module names below a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerNames {
    pub self_attention: &'static str,
    pub self_norm: &'static str,
    /// Attention over the memory and its norm, in decoder layers.
    pub cross: Option<(&'static str, &'static str)>,
    /// Module that the feed-forward's projections lie below; empty where they lie in the layer.
    pub mlp: &'static str,
    pub mlp_norm: &'static str,
}

impl Names {
    pub fn bart() -> Self {
        let encoder = LayerNames {
            self_attention: "self_attn",
            self_norm: "self_attn_layer_norm",
            cross: None,
            mlp: "",
            mlp_norm: "final_layer_norm",
        };
        Self {
            body: "model",
            layers: "layers",
            encoder,
            decoder: LayerNames {
                cross: Some(("encoder_attn", "encoder_attn_layer_norm")),
                ..encoder
            },
            qkvo: ["q_proj", "k_proj", "v_proj", "out_proj"],
            gate: None,
            up: "fc1",
            down: "fc2",
            learned_positions: "embed_positions",
            embed_norm: Some("layernorm_embedding"),
            final_norm: None,
            relative_bias: "",
        }
    }

    pub fn t5(gated: bool) -> Self {
        Self {
            body: "",
            layers: "block",
            encoder: LayerNames {
                self_attention: "layer.0.SelfAttention",
                self_norm: "layer.0.layer_norm",
                cross: None,
                mlp: "layer.1.DenseReluDense",
                mlp_norm: "layer.1.layer_norm",
            },
            decoder: LayerNames {
                self_attention: "layer.0.SelfAttention",
                self_norm: "layer.0.layer_norm",
                cross: Some(("layer.1.EncDecAttention", "layer.1.layer_norm")),
                mlp: "layer.2.DenseReluDense",
                mlp_norm: "layer.2.layer_norm",
            },
            qkvo: ["q", "k", "v", "o"],
            gate: gated.then_some("wi_0"),
            up: if gated { "wi_1" } else { "wi" },
            down: "wo",
            learned_positions: "",
            embed_norm: None,
            final_norm: Some("final_layer_norm"),
            relative_bias: "relative_attention_bias",
        }
    }
}
