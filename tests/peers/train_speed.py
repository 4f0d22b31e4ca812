#!/usr/bin/env python3
"""Seconds a step of peft training an adapter on a LLaMA with random weights, for comparison with `meit bench train`.

Same sizes, f32, LoRA on every linear layer but the head, AdamW; a step is forward, backward and update; the median of the steps
after the first counts. Run both on an idle machine, one after the other. Not part of CI, which has no torch.

usage: train_speed.py [--shape 110m] [--rank 16] [--batch 4] [--tokens 128] [--steps 5] [--threads N]
needs: torch, transformers, peft
"""
import argparse, json, resource, statistics, time, torch
from decode_speed import SHAPES
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--shape", default="110m", choices=SHAPES); a.add_argument("--rank", type=int, default=16)
    a.add_argument("--batch", type=int, default=4); a.add_argument("--tokens", type=int, default=128)
    a.add_argument("--steps", type=int, default=5); a.add_argument("--threads", type=int)
    a = a.parse_args()
    if a.threads: torch.set_num_threads(a.threads)
    hidden, mlp, layers, heads, kv, vocabulary = SHAPES[a.shape]
    m = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, hidden_size=hidden, intermediate_size=mlp, num_hidden_layers=layers,
                                     num_attention_heads=heads, num_key_value_heads=kv, max_position_embeddings=2048))
    m = get_peft_model(m, LoraConfig(r=a.rank, lora_alpha=2 * a.rank, target_modules="all-linear", task_type="CAUSAL_LM"))
    trained = [p for p in m.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)
    ids = torch.randint(0, vocabulary, (a.batch, a.tokens)); times, losses = [], []
    for _ in range(a.steps):
        started = time.perf_counter()
        loss = m(input_ids=ids, labels=ids, use_cache=False).loss
        optimizer.zero_grad(); loss.backward(); optimizer.step()
        losses.append(loss.item()); times.append(time.perf_counter() - started)
    step = statistics.median(times[1:])
    print(json.dumps(dict(seconds_per_step=step, tokens_per_s=a.batch * a.tokens / step,
                          peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
                          adapter_parameters=sum(p.numel() for p in trained), loss_first=losses[0], loss_last=losses[-1],
                          threads=torch.get_num_threads(), shape=a.shape, rank=a.rank, batch=a.batch, tokens=a.tokens)))


if __name__ == "__main__":
    main()
