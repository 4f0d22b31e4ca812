#!/usr/bin/env python3
"""Tokens a second of Hugging Face transformers on a LLaMA with random weights, for comparison with `meit bench infer`.

Same sizes, greedy, no stop token, prompt and decoding timed apart, fastest of the runs counts. Run both on an idle machine,
one after the other. Not part of CI, which has no torch.

usage: decode_speed.py [--shape 110m] [--batch 1] [--prompt 32] [--new 64] [--runs 3] [--threads N]
needs: torch, transformers
"""
import argparse, json, time, torch
from transformers import LlamaConfig, LlamaForCausalLM

SHAPES = {"15m": (256, 688, 8, 4, 4, 4096), "110m": (768, 2048, 12, 12, 12, 32000),
          "1b": (2048, 5504, 22, 32, 4, 32000), "7b": (4096, 11008, 32, 32, 32, 32000)}


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--shape", default="110m", choices=SHAPES); a.add_argument("--batch", type=int, default=1)
    a.add_argument("--prompt", type=int, default=32); a.add_argument("--new", type=int, default=64)
    a.add_argument("--runs", type=int, default=3); a.add_argument("--threads", type=int)
    a = a.parse_args()
    if a.threads: torch.set_num_threads(a.threads)
    hidden, mlp, layers, heads, kv, vocabulary = SHAPES[a.shape]
    m = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, hidden_size=hidden, intermediate_size=mlp, num_hidden_layers=layers,
                                     num_attention_heads=heads, num_key_value_heads=kv, max_position_embeddings=2048)).eval()

    def seconds(new):
        ids = torch.randint(0, vocabulary, (a.batch, a.prompt))
        started = time.perf_counter()
        with torch.inference_mode():
            out = m.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, do_sample=False,
                             pad_token_id=0)
        assert out.shape[1] == a.prompt + new
        return time.perf_counter() - started

    runs = [(seconds(1), seconds(a.new)) for _ in range(a.runs)]
    prompt, whole = min(r[0] for r in runs), min(r[1] for r in runs)
    weights = sum(p.numel() for n, p in m.named_parameters() if "embed_tokens" not in n)
    decode = whole - prompt
    print(json.dumps(dict(tokens_per_s=(a.new - 1) * a.batch / decode, weight_gb_per_s=weights * 4 * (a.new - 1) / decode / 1e9,
                          seconds=whole, prompt_seconds=prompt, decode_seconds=decode, threads=torch.get_num_threads(),
                          shape=a.shape, batch=a.batch, prompt=a.prompt, new=a.new)))


if __name__ == "__main__":
    main()
