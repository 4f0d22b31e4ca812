#!/usr/bin/env python3
"""Export golden tensors for decoder configs that are unlike the families' usual ones.

Same layout as export_decoders.py, from which it takes the forward with the ECG prefix; directories are named after what is
odd about them. One checkpoint is written in shards.

usage: export_odd_decoders.py OUT_DIR [--seed N]
needs: torch, transformers, safetensors; made with torch 2.15.0, transformers 5.23.0 (gpt_neox-odd-rotary and gpt_neox-one-rotary: 5.24.0)
"""
import argparse, os, torch
import export_decoders as X
from safetensors.torch import save_file
from transformers import (AutoModelForCausalLM, BloomConfig, GPT2Config, GPTJConfig, GPTNeoConfig, GPTNeoXConfig,
                          LlamaConfig, MistralConfig, OPTConfig)

V = 41
COMMON = dict(vocab_size=V, bos_token_id=1, eos_token_id=2, pad_token_id=0)
LLAMA = dict(hidden_size=24, intermediate_size=20, num_hidden_layers=2, max_position_embeddings=48, **COMMON)
CASES = {
    "gpt2-inverse-layer": ("gpt2", GPT2Config(n_embd=24, n_layer=3, n_head=3, n_positions=40, n_inner=28,
                                              scale_attn_by_inverse_layer_idx=True, activation_function="relu", **COMMON)),
    "gpt2-unscaled": ("gpt2", GPT2Config(n_embd=20, n_layer=2, n_head=5, n_positions=40, scale_attn_weights=False,
                                         tie_word_embeddings=False, **COMMON)),
    "gpt_neo-local": ("gpt_neo", GPTNeoConfig(hidden_size=24, num_layers=3, num_heads=2, window_size=3,
                                              attention_types=[[["local"], 1], [["global", "local"], 1]],
                                              max_position_embeddings=40, **COMMON)),
    "gpt_neox-sequential": ("gpt_neox", GPTNeoXConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
                                                      intermediate_size=20, rotary_pct=0.5, use_parallel_residual=False,
                                                      attention_bias=False, max_position_embeddings=40, **COMMON)),
    "gpt_neox-full-rotary": ("gpt_neox", GPTNeoXConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=6,
                                                       intermediate_size=36, rotary_pct=1.0, hidden_act="gelu_new",
                                                       tie_word_embeddings=True, max_position_embeddings=40, **COMMON)),
    # 3 of 12 dimensions and 1 of 4: an odd width turns one dimension more
    "gpt_neox-odd-rotary": ("gpt_neox", GPTNeoXConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
                                                      intermediate_size=20, rotary_pct=0.25, max_position_embeddings=40,
                                                      **COMMON)),
    "gpt_neox-one-rotary": ("gpt_neox", GPTNeoXConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
                                                      intermediate_size=20, rotary_pct=0.25, use_parallel_residual=False,
                                                      max_position_embeddings=40, **COMMON)),
    "gptj-full-rotary": ("gptj", GPTJConfig(n_embd=24, n_layer=2, n_head=3, rotary_dim=8, n_inner=20, n_positions=40,
                                            **COMMON)),
    "bloom-six-heads": ("bloom", BloomConfig(hidden_size=24, n_layer=2, n_head=6, **COMMON)),
    "bloom-residual-from-norm": ("bloom", BloomConfig(hidden_size=20, n_layer=2, n_head=5,
                                                      apply_residual_connection_post_layernorm=True, **COMMON)),
    "opt-post-norm": ("opt", OPTConfig(hidden_size=24, num_hidden_layers=2, ffn_dim=20, num_attention_heads=6,
                                       max_position_embeddings=40, word_embed_proj_dim=10, do_layer_norm_before=False,
                                       **COMMON)),
    "opt-bare": ("opt", OPTConfig(hidden_size=24, num_hidden_layers=2, ffn_dim=20, num_attention_heads=3,
                                  max_position_embeddings=40, enable_bias=False, layer_norm_elementwise_affine=False,
                                  activation_function="gelu", **COMMON)),
    "llama-one-kv-head": ("llama", LlamaConfig(num_attention_heads=6, num_key_value_heads=1, attention_bias=True,
                                               mlp_bias=True, **LLAMA)),
    "llama-linear-rope": ("llama", LlamaConfig(num_attention_heads=3, num_key_value_heads=3, rope_theta=500.0,
                                               rope_scaling=dict(rope_type="linear", factor=4.0), **LLAMA)),
    "llama-llama3-rope": ("llama", LlamaConfig(num_attention_heads=6, num_key_value_heads=3, tie_word_embeddings=True,
                                               rope_theta=10000.0,
                                               rope_scaling=dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0,
                                                                 high_freq_factor=2.0, original_max_position_embeddings=16),
                                               **LLAMA)),
    "mistral-window": ("mistral", MistralConfig(num_attention_heads=6, num_key_value_heads=2, sliding_window=4, **LLAMA)),
    "mistral-no-window": ("mistral", MistralConfig(num_attention_heads=3, num_key_value_heads=1, sliding_window=None, **LLAMA)),
}
SHARDED = "mistral-window"


def main():
    a = argparse.ArgumentParser()
    a.add_argument("out"); a.add_argument("--seed", type=int, default=20261124)
    a = a.parse_args()
    for name, (family, config) in CASES.items():
        torch.manual_seed(a.seed)
        m = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().float()
        with torch.no_grad():
            for part, w in m.named_parameters():
                if w.ndim == 1:
                    w.add_(0.1 * torch.randn_like(w))
                elif any(word in part for word in ("wte", "embed", "word_embeddings")):
                    w.copy_(torch.randn_like(w) * 0.5)
                else:
                    w.copy_(torch.randn_like(w) * 0.2)
            m.tie_weights()
            b, t, p = 3, 13, 5
            ids = torch.randint(3, V, (b, t)); n = torch.tensor([13, 8, 1])
            for row in range(b):
                ids[row, n[row]:] = 0
            e = torch.nn.functional.normalize(torch.randn(b, p, X.head_dim(family, m)), dim=-1)
            out = dict(input_ids=ids, lengths=n, ecg=e, logits_text=X.run(family, m, ids, None),
                       logits_ecg=X.run(family, m, ids, e), logits_ecg_one=X.run(family, m, ids, e[:, :1]),
                       greedy_ecg=X.greedy(family, m, ids, n, e, 10))
        d = os.path.join(a.out, name); os.makedirs(d, exist_ok=True)
        m.save_pretrained(d, **(dict(max_shard_size="20KB") if name == SHARDED else {}))
        extra = os.path.join(d, "generation_config.json")
        if os.path.exists(extra): os.remove(extra)
        save_file({k: v.contiguous() for k, v in out.items()}, os.path.join(d, "io.safetensors"))
        print(f"{name:26s} params {sum(x.numel() for x in m.parameters()):7d}  greedy {out['greedy_ecg'][0].tolist()}")


if __name__ == "__main__":
    main()
