#!/usr/bin/env python3
"""Export golden tensors for the encoder-decoder comparators: BART and T5 with the ECG beside the encoder's output.

Per case: config.json and model.safetensors as the hub has them, io.safetensors with
  input_ids (B, S), lengths (B)    the encoder's text, padded on the right
  ecg (B, P, C)                    embeddings that the decoder's cross-attention sees beside the text
  decoder_ids (B, T)               start token first
  logits_text, logits_ecg, logits_ecg_one (B, T, V)   without the ECG, with P tokens, with the first of them
  greedy_text, greedy_ecg (B, N)   continuations of the start token, no token forced or forbidden

usage: export_seq2seq.py OUT_DIR [--seed N]
needs: torch, transformers, safetensors; made with torch 2.15.0, transformers 5.24.0
"""
import argparse, json, os, torch
from safetensors.torch import save_file
from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

V = 43
BART = dict(vocab_size=V, max_position_embeddings=40, dropout=0.0, pad_token_id=1, bos_token_id=0, eos_token_id=2,
            decoder_start_token_id=2, forced_eos_token_id=None)
T5 = dict(vocab_size=V, dropout_rate=0.0, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)
# config, and whether the head has a weight of its own
CASES = {
    "bart": (BartConfig(d_model=24, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
                        decoder_attention_heads=4, encoder_ffn_dim=28, decoder_ffn_dim=28, **BART), False),
    "bart-scaled": (BartConfig(d_model=20, encoder_layers=1, decoder_layers=3, encoder_attention_heads=5,
                               decoder_attention_heads=2, encoder_ffn_dim=12, decoder_ffn_dim=36, scale_embedding=True,
                               activation_function="gelu_new", **BART), False),
    "t5": (T5Config(d_model=24, d_kv=10, d_ff=28, num_layers=2, num_heads=3, relative_attention_num_buckets=8,
                    relative_attention_max_distance=12, **T5), False),
    "t5-gated": (T5Config(d_model=20, d_kv=6, d_ff=32, num_layers=1, num_decoder_layers=3, num_heads=4,
                          relative_attention_num_buckets=10, relative_attention_max_distance=9,
                          feed_forward_proj="gated-gelu", tie_word_embeddings=False, layer_norm_epsilon=1e-5, **T5), True),
    "t5-gated-silu": (T5Config(d_model=18, d_kv=6, d_ff=16, num_layers=2, num_heads=3, feed_forward_proj="gated-silu",
                               **T5), False),
}


def build(config, own_head):
    cls = BartForConditionalGeneration if config.model_type == "bart" else T5ForConditionalGeneration
    m = cls._from_config(config, attn_implementation="eager").eval().float()
    if own_head:
        m.lm_head.weight = torch.nn.Parameter(torch.empty_like(m.lm_head.weight))
    with torch.no_grad():
        for name, w in m.named_parameters():
            if w.ndim == 1:
                w.add_(0.1 * torch.randn_like(w))
            else:
                w.copy_(torch.randn_like(w) * (1.0 if "relative" in name else 0.25 if "shared" in name else 0.5))
            if config.model_type == "t5" and name.endswith("Attention.q.weight"):
                w.mul_(config.d_kv ** -0.5)  # T5 does not scale its scores: its queries start small
        if config.model_type == "bart":
            m.final_logits_bias.copy_(0.3 * torch.randn_like(m.final_logits_bias))
    return m


def memory(m, ids, mask, ecg):
    """Encoder's output and its mask, with the ECG's embeddings after it."""
    hidden = m.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    if ecg is None:
        return hidden, mask
    return torch.cat([hidden, ecg], 1), torch.cat([mask, torch.ones(ecg.shape[:2], dtype=mask.dtype)], 1)


def run(m, ids, mask, ecg, decoder_ids):
    hidden, mask = memory(m, ids, mask, ecg)
    return m(encoder_outputs=BaseModelOutput(last_hidden_state=hidden), attention_mask=mask,
             decoder_input_ids=decoder_ids, use_cache=False).logits


def greedy(m, ids, lengths, ecg, n):
    rows = []
    for row, length in enumerate(lengths.tolist()):
        alone, e = ids[row:row + 1, :length], None if ecg is None else ecg[row:row + 1]
        out = torch.tensor([[m.config.decoder_start_token_id]])
        for _ in range(n):
            out = torch.cat([out, run(m, alone, torch.ones_like(alone), e, out)[:, -1:].argmax(-1)], 1)
        rows.append(out[:, 1:])
    return torch.cat(rows)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("out"); a.add_argument("--seed", type=int, default=20261128)
    a = a.parse_args()
    for name, (config, own_head) in CASES.items():
        torch.manual_seed(a.seed)
        m = build(config, own_head)
        with torch.no_grad():
            b, s, t, p = 3, 17, 15, 4
            ids = torch.randint(3, V, (b, s)); n = torch.tensor([17, 9, 1])
            mask = (torch.arange(s)[None] < n[:, None]).long()
            ids = torch.where(mask.bool(), ids, torch.tensor(config.pad_token_id))
            decoder_ids = torch.randint(3, V, (b, t)); decoder_ids[:, 0] = config.decoder_start_token_id
            ecg = torch.randn(b, p, config.d_model)
            out = dict(input_ids=ids, lengths=n, ecg=ecg, decoder_ids=decoder_ids,
                       logits_text=run(m, ids, mask, None, decoder_ids), logits_ecg=run(m, ids, mask, ecg, decoder_ids),
                       logits_ecg_one=run(m, ids, mask, ecg[:, :1], decoder_ids),
                       greedy_text=greedy(m, ids, n, None, 12), greedy_ecg=greedy(m, ids, n, ecg, 12))
        d = os.path.join(a.out, name); os.makedirs(d, exist_ok=True)
        config = config.to_dict()
        config["architectures"] = [type(m).__name__]
        if own_head:  # what the hub's t5-v1_1 and flan-t5 say
            config["tie_word_embeddings"] = False
            config.pop("scale_decoder_outputs")
        with open(os.path.join(d, "config.json"), "w") as f:
            json.dump(config, f, indent=2)
        tied = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"} | (set() if own_head else {"lm_head.weight"})
        kept = {k: v.contiguous() for k, v in m.state_dict().items() if k.removeprefix("model.") not in tied}
        save_file(kept, os.path.join(d, "model.safetensors"), metadata={"format": "pt"})
        save_file({k: v.contiguous() for k, v in out.items()}, os.path.join(d, "io.safetensors"))
        print(f"{name:14s} params {sum(x.numel() for x in m.parameters()):6d}  greedy {out['greedy_ecg'][0].tolist()}")


if __name__ == "__main__":
    main()
