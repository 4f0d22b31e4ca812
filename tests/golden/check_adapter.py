#!/usr/bin/env python3
"""Load an adapter that the Rust side wrote into peft and compare the logits, prefix through the adapted projections.

  cargo run --release -p model --example write_adapter -- tests/golden/lora/NAME OUT   # trains a fresh adapter, writes OUT
  python tests/golden/check_adapter.py tests/golden/lora/NAME OUT                      # exits 1 above 1e-4

Not part of CI, which has no torch. needs: torch, transformers, peft, safetensors
"""
import sys, json, os, torch
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import export_decoders as X
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def main():
    base, out = sys.argv[1:3]
    family = json.load(open(os.path.join(base, "config.json")))["model_type"]
    m = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager").float()
    io = load_file(os.path.join(out, "io.safetensors"))
    ids, e = io["input_ids"].long(), io["ecg"]
    with torch.no_grad():
        plain = X.run(family, m.eval(), ids, e)
        pm = PeftModel.from_pretrained(m, os.path.join(out, "adapter")).eval()
        got = X.run(family, pm.base_model.model, ids, e)
    error = float((got - io["logits"]).abs().max()); change = float((got - plain).abs().max())
    print(f"{family:9s} max error {error:.2e}; the adapter changes logits by up to {change:.2e}")
    sys.exit(error > 1e-4 or change < 1e-2)


if __name__ == "__main__":
    main()
