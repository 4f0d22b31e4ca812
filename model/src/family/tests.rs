//! Configs as older versions of transformers wrote them, with keys left out, doubled and under older names.
//!
//! Place: beside the families; today's configs are tested with their tensors in tests/it/golden. Invariant: what a config leaves
//! out has transformers' own value.

use serde_json::{Value, json};

use super::MODEL_TYPES;
use crate::architecture::{Activation, Architecture, Norm, Positions, Residual};
use crate::backbone::BackboneConfig;
use crate::rotary::{Pairs, Rope, RopeParameters};

fn read(json: &Value) -> Architecture {
    Architecture::from_json(json).expect("an architecture")
}

#[track_caller]
fn check_sizes(a: &Architecture, hidden: usize, mlp: usize, layers: usize, heads: (usize, usize, usize)) {
    assert_eq!((a.hidden_size, a.mlp_size, a.layers.len()), (hidden, mlp, layers));
    assert_eq!((a.heads, a.kv_heads, a.head_dim), heads);
}

#[test]
fn gpt2_medium_of_transformers_4() {
    let a = read(
        &json!({"model_type": "gpt2", "activation_function": "gelu_new", "n_ctx": 1024, "n_embd": 1024, "n_head": 16,
        "n_layer": 24, "n_positions": 1024, "vocab_size": 50257, "layer_norm_epsilon": 1e-5}),
    );
    check_sizes(&a, 1024, 4096, 24, (16, 16, 64));
    assert!(a.tied && a.positions_max() == Some(1024));
    assert_eq!(a.layers[23].score_scale, 0.125);
}

#[test]
fn gpt_neo_that_leaves_its_layers_out() {
    let a = read(
        &json!({"model_type": "gpt_neo", "vocab_size": 50257, "max_position_embeddings": 2048, "hidden_size": 2048,
        "num_layers": 24, "num_heads": 16, "intermediate_size": null}),
    );
    check_sizes(&a, 2048, 8192, 24, (16, 16, 128));
    assert_eq!((a.layers[0].window, a.layers[1].window), (None, Some(256)));
    assert_eq!(a.layers[0].score_scale, 1.0);
}

#[test]
fn gpt_neox_with_rotary_keys_of_transformers_4() {
    let a = read(
        &json!({"model_type": "gpt_neox", "vocab_size": 50304, "hidden_size": 512, "num_hidden_layers": 6,
        "num_attention_heads": 8, "intermediate_size": 2048, "hidden_act": "gelu", "rotary_pct": 0.25, "rotary_emb_base": 10000,
        "layer_norm_eps": 1e-5, "use_parallel_residual": true}),
    );
    check_sizes(&a, 512, 2048, 6, (8, 8, 64));
    assert_eq!(a.positions, Positions::Rotary(Rope::new(16, 10_000.0, Pairs::Halves)));
    assert_eq!(
        (a.residual, a.activation, a.tied),
        (Residual::Parallel, Activation::GeluErf, false)
    );
    assert!(a.biases.qkv);
}

#[test]
fn bloom_with_older_names_alone_or_beside_the_newer() {
    let older = json!({"model_type": "bloom", "n_embed": 1024, "num_attention_heads": 16, "n_layer": 24, "vocab_size": 250_880});
    check_sizes(&read(&older), 1024, 4096, 24, (16, 16, 64));
    let mut both = older;
    both["hidden_size"] = json!(1024);
    both["n_head"] = json!(16);
    check_sizes(&read(&both), 1024, 4096, 24, (16, 16, 64));
}

#[test]
fn opt_350m_projects_its_embeddings_and_norms_afterwards() {
    let a = read(
        &json!({"model_type": "opt", "vocab_size": 50272, "hidden_size": 1024, "num_hidden_layers": 24, "ffn_dim": 4096,
        "max_position_embeddings": 2048, "num_attention_heads": 16, "word_embed_proj_dim": 512, "do_layer_norm_before": false,
        "_remove_final_layer_norm": false, "activation_function": "relu"}),
    );
    check_sizes(&a, 1024, 4096, 24, (16, 16, 64));
    assert_eq!(
        (a.embed_size, a.residual, a.positions_max()),
        (512, Residual::PostNorm, Some(2048))
    );
    assert!(a.names.project_in.is_some() && a.names.final_norm.is_none());
}

#[test]
fn llama_2_and_3_1_of_transformers_4() {
    let two = json!({"model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "rms_norm_eps": 1e-5,
        "rope_scaling": null, "tie_word_embeddings": false});
    let a = read(&two);
    check_sizes(&a, 4096, 11008, 32, (32, 32, 128));
    assert_eq!(a.norm, Norm::Rms { eps: 1e-5 });
    assert_eq!(a.positions, Positions::Rotary(Rope::new(128, 10_000.0, Pairs::Halves)));
    let mut three = two;
    three["num_key_value_heads"] = json!(8);
    three["rope_theta"] = json!(500_000.0);
    three["rope_scaling"] = json!({"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3", "type": "llama3"});
    let a = read(&three);
    check_sizes(&a, 4096, 11008, 32, (32, 8, 128));
    let scaling: RopeParameters = serde_json::from_value(three["rope_scaling"].clone()).expect("parameters");
    let rope = Rope::scaled(128, 500_000.0, Pairs::Halves, Some(&scaling), 2048).expect("a known kind");
    assert_ne!(rope, Rope::new(128, 500_000.0, Pairs::Halves));
    assert_eq!(a.positions, Positions::Rotary(rope));
}

#[test]
fn mistral_has_a_window_unless_it_is_null() {
    let mut json = json!({"model_type": "mistral", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "rms_norm_eps": 1e-5});
    let a = read(&json);
    check_sizes(&a, 4096, 14336, 32, (32, 8, 128));
    assert_eq!(a.layers[0].window, Some(4096));
    json["sliding_window"] = Value::Null;
    assert_eq!(read(&json).layers[0].window, None);
}

#[test]
fn what_is_not_done_is_an_error_with_key_value_and_bound() {
    let error = |json: &Value| Architecture::from_json(json).expect_err("an error").to_string();
    let unknown = error(&json!({"model_type": "mamba"}));
    assert!(
        MODEL_TYPES.iter().all(|known| unknown.contains(known)) && unknown.contains("mamba"),
        "{unknown}"
    );
    let mut llama = json!({"model_type": "llama", "vocab_size": 8, "hidden_size": 24, "intermediate_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 3, "rope_scaling": {"type": "yarn", "factor": 2.0}});
    assert!(error(&llama).contains("rope_type is yarn"));
    llama["rope_scaling"] = Value::Null;
    llama["num_key_value_heads"] = json!(2);
    assert!(error(&llama).contains("num_key_value_heads is 2"));
    llama["num_key_value_heads"] = json!(3);
    llama["hidden_act"] = json!("mish");
    assert!(error(&llama).contains("activation is mish"));
    llama["hidden_act"] = json!("silu");
    llama["num_attention_heads"] = json!(5);
    assert!(error(&llama).contains("must divide the hidden size, 24"));
    llama["num_attention_heads"] = json!(0);
    llama["head_dim"] = json!(8);
    assert_eq!(error(&llama), "config key num_attention_heads is 0: at least 1");
}

#[test]
fn a_quantised_checkpoint_is_refused_with_its_method() {
    for model_type in MODEL_TYPES.into_iter().chain(["t5"]) {
        let json = json!({"model_type": model_type, "quantization_config": {"quant_method": "fp8"}});
        let error = BackboneConfig::from_json(&json).expect_err("an error").to_string();
        assert!(
            error.contains("quantization_config is fp8: quantised checkpoints are not read"),
            "{error}"
        );
    }
}

#[track_caller]
fn refused(json: &Value, expected: &str) {
    let error = Architecture::from_json(json).expect_err("an error").to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn rotary_widths_round_up_to_pairs_as_in_transformers_or_are_refused() {
    // the golden decoders hold what odd widths compute; this holds which there are
    let neox = |hidden: usize, share: f64| {
        json!({"model_type": "gpt_neox", "vocab_size": 9, "hidden_size": hidden, "num_hidden_layers": 1,
            "num_attention_heads": 1, "intermediate_size": 8, "rotary_pct": share})
    };
    for (hidden, share, dims) in [(4, 0.25, 2), (6, 0.25, 2), (12, 0.25, 4), (10, 0.5, 6), (8, 1.0, 8)] {
        let Positions::Rotary(rope) = read(&neox(hidden, share)).positions else {
            panic!("rotary positions");
        };
        assert_eq!(rope.dims(), dims, "{share} of {hidden}");
    }
    refused(&neox(3, 0.25), "rotary_dim is 0");
    refused(
        &neox(5, 1.0),
        "rotary_dim is 6: dimensions that turn, in pairs, must be 2 to the head dimension, 5",
    );
    refused(&neox(8, 1.5), "rotary_dim is 12");
}

#[test]
fn gptj_turns_64_dimensions_unless_it_says_another_even_number() {
    let mut json = json!({"model_type": "gptj", "vocab_size": 9, "n_embd": 160, "n_layer": 1, "n_head": 2});
    let turning = |json: &Value| read(json).positions;
    let rope = |dims| Positions::Rotary(Rope::new(dims, 10_000.0, Pairs::Neighbours));
    assert_eq!(turning(&json), rope(64));
    json["rotary_dim"] = json!(6);
    assert_eq!(turning(&json), rope(6));
    for (value, named) in [
        (Value::Null, "null"),
        (json!(7), "7"),
        (json!(0), "0"),
        (json!(82), "82"),
    ] {
        json["rotary_dim"] = value;
        refused(&json, &format!("rotary_dim is {named}"));
    }
}

#[test]
fn llama3_scaling_takes_the_configs_own_positions_and_names_what_it_lacks() {
    let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0});
    let llama = |scaling: &Value| {
        json!({"model_type": "llama", "vocab_size": 9, "hidden_size": 64, "intermediate_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 1, "max_position_embeddings": 64, "rope_theta": 500.0, "rope_scaling": scaling})
    };
    let with = |key: &str, value: Value| {
        let mut scaling = scaling.clone();
        scaling[key] = value;
        llama(&scaling)
    };
    let original = |positions: usize| read(&with("original_max_position_embeddings", json!(positions))).positions;
    assert_eq!(read(&llama(&scaling)).positions, original(64));
    assert_ne!(original(64), original(8192));
    for key in ["factor", "low_freq_factor", "high_freq_factor"] {
        refused(&with(key, Value::Null), &format!("{key} is missing"));
        refused(
            &with(key, json!(0.0)),
            &format!("{key} is 0: must be a finite number above 0"),
        );
    }
    refused(
        &with("high_freq_factor", json!(0.5)),
        "high_freq_factor is 0.5: must be above low_freq_factor, 1",
    );
    refused(
        &with("original_max_position_embeddings", json!(0)),
        "original_max_position_embeddings is 0",
    );
    refused(&llama(&json!({"rope_type": "linear"})), "factor is missing");
    let mut theta = llama(&Value::Null);
    theta["rope_theta"] = json!(-1.0);
    refused(&theta, "rope_theta is -1");
}
