#!/usr/bin/env python3
"""Export golden LoRA adapters with unusual settings: all-linear, regular expressions, patterns, rslora, layers.

Same layout as export_lora.py, on the decoders of export_odd_decoders.py.

usage: export_odd_lora.py OUT_DIR [--seed N]
needs: torch, transformers, peft, safetensors; made with torch 2.15.0, transformers 5.23.0, peft 0.21.2
"""
import argparse, os, torch
import export_decoders as X
import export_odd_decoders as O
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

ADAPTERS = {
    "opt-post-norm": dict(r=3, lora_alpha=5, target_modules="all-linear", use_rslora=True),
    "gpt_neox-sequential": dict(r=2, lora_alpha=8, target_modules=r".*layers\.1\.(attention\.query_key_value|mlp\.dense_.*)"),
    "gptj-full-rotary": dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "fc_in", "fc_out", "lm_head"],
                             exclude_modules=r".*h\.0\.mlp.*",
                             rank_pattern={r"h\.1\.attn\.q_proj": 2, "q_proj": 3}, alpha_pattern={"v_proj": 16}),
    "bloom-six-heads": dict(r=2, lora_alpha=4, target_modules=["query_key_value", "dense"], layers_to_transform=[1]),
    "gpt2-unscaled": dict(r=2, lora_alpha=3, target_modules="all-linear", fan_in_fan_out=True),
    "llama-one-kv-head": dict(r=2, lora_alpha=4, target_modules=["k_proj", "v_proj", "o_proj"], layers_to_transform=0,
                              layers_pattern="layers"),
}


def main():
    a = argparse.ArgumentParser(); a.add_argument("out"); a.add_argument("--seed", type=int, default=20261124)
    a = a.parse_args()
    for name, settings in ADAPTERS.items():
        torch.manual_seed(a.seed)
        family, config = O.CASES[name]
        d = os.path.join(a.out, name); os.makedirs(d, exist_ok=True)
        m = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float()
        with torch.no_grad():
            for _, w in m.named_parameters():
                w.add_(0.1 * torch.randn_like(w))
            m.tie_weights()
        m.save_pretrained(d)
        extra = os.path.join(d, "generation_config.json")
        if os.path.exists(extra): os.remove(extra)
        pm = get_peft_model(m, LoraConfig(bias="none", task_type="CAUSAL_LM", base_model_name_or_path=name, **settings))
        with torch.no_grad():
            for k, w in pm.named_parameters():
                if "lora_B" in k: w.normal_(0, 0.1)
        pm.save_pretrained(os.path.join(d, "adapter"))
        os.remove(os.path.join(d, "adapter", "README.md"))
        ids = torch.randint(3, O.V, (3, 11)); labels = ids.clone(); labels[:, :4] = -100; labels[1, 8:] = -100
        e = torch.nn.functional.normalize(torch.randn(3, 2, X.head_dim(family, m)), dim=-1)
        inner = pm.base_model.model
        pm.eval(); out = dict(input_ids=ids, labels=labels, ecg=e)
        with torch.no_grad(): out["logits_adapter"] = X.run(family, inner, ids, e)
        trained = {k: p for k, p in pm.named_parameters() if p.requires_grad}
        opt = torch.optim.AdamW(trained.values(), lr=1e-2, weight_decay=0.0); steps, warm = 6, 1
        for s in range(steps):
            lr = 1e-2 * (s / warm if s < warm else (steps - s) / (steps - warm))
            for group in opt.param_groups: group["lr"] = lr
            logits = X.run(family, inner, ids, e)
            loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, O.V), labels[:, 1:].reshape(-1), ignore_index=-100)
            opt.zero_grad(); loss.backward()
            out[f"loss_{s}"], out[f"lr_{s}"] = loss.detach(), torch.tensor(lr)
            if s == 0:
                out.update({f"grad0.{k.replace('.default', '')}": p.grad.clone() for k, p in trained.items()})
            opt.step()
        out.update({f"after.{k.replace('.default', '')}": p.detach().clone() for k, p in trained.items()})
        save_file({k: v.contiguous() for k, v in out.items()}, os.path.join(d, "io.safetensors"))
        print(name, len(trained), [round(out[f"loss_{s}"].item(), 4) for s in range(steps)])


if __name__ == "__main__":
    main()
