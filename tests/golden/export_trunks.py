#!/usr/bin/env python3
"""Golden tensors of the encoder's other trunks: transformer, Vision Mamba, ResNet of basic blocks.

The transformer is torch.nn.TransformerEncoderLayer, the state space transformers' MambaMixer._slow_forward run once in each
direction, the ResNet written with torch.nn modules: none of it shares code with this repository. For each trunk OUT/NAME has
encoder.json (the config in bundle.json), encoder.safetensors (random weights under our names) and io.safetensors: x (B, L, S),
frames (B, S', F), target (like frames), grad.NAME of sum(frames * target) for every tensor, in f32.

usage: export_trunks.py OUT [--seed 3]
needs: torch, transformers, safetensors
"""
import argparse, json, pathlib, torch
from safetensors.torch import save_file
from torch import nn
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer

LEADS, SAMPLES, BATCH = 5, 96, 2


def patches(w, x, width, patch, class_at):
    y = nn.functional.conv1d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=patch).transpose(1, 2)
    y = torch.cat([y[:, :class_at], w["cls_token"].expand(len(y), -1, -1), y[:, class_at:]], 1)
    return y + w["pos_embed"]


def patch_tensors(width, patch, count):
    return {"patch_embed.proj.weight": (width, LEADS, patch), "patch_embed.proj.bias": (width,),
            "cls_token": (1, 1, width), "pos_embed": (1, 1 + count, width)}


def draw(shapes, generator):
    w = {}
    for name, shape in shapes.items():
        t = torch.randn(shape, generator=generator) * 0.3
        if name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "norm_f.weight")): t = t + 1
        w[name] = t.requires_grad_()
    return w


def vit(generator):
    width, layers, heads, mlp, patch = 12, 2, 3, 20, 8
    count = SAMPLES // patch
    config = dict(kind="vit1d", width=width, layers=layers, heads=heads, mlp=mlp, patch=patch, patches=count)
    shapes = patch_tensors(width, patch, count) | {"norm.weight": (width,), "norm.bias": (width,)}
    for i in range(layers):
        for name, shape in {"norm1.weight": (width,), "norm1.bias": (width,), "norm2.weight": (width,), "norm2.bias": (width,),
                            "attn.qkv.weight": (3 * width, width), "attn.qkv.bias": (3 * width,), "attn.proj.weight": (width, width),
                            "attn.proj.bias": (width,), "mlp.fc1.weight": (mlp, width), "mlp.fc1.bias": (mlp,),
                            "mlp.fc2.weight": (width, mlp), "mlp.fc2.bias": (width,)}.items():
            shapes[f"blocks.{i}.{name}"] = shape
    w = draw(shapes, generator)
    theirs = {"norm1": "norm1", "norm2": "norm2", "mlp.fc1": "linear1", "mlp.fc2": "linear2", "attn.proj": "self_attn.out_proj"}

    def forward(x):
        y = patches(w, x, width, patch, 0)
        for i in range(layers):
            layer = nn.TransformerEncoderLayer(width, heads, mlp, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True)
            state = {f"{b}.{part}": w[f"blocks.{i}.{a}.{part}"] for a, b in theirs.items() for part in ("weight", "bias")}
            state |= {f"self_attn.in_proj_{part}": w[f"blocks.{i}.attn.qkv.{part}"] for part in ("weight", "bias")}
            y = torch.func.functional_call(layer, state, (y,))
        return nn.functional.layer_norm(y, (width,), w["norm.weight"], w["norm.bias"], 1e-6)

    return config, w, forward


def vim(generator):
    width, layers, inner, state, rank, taps, patch = 8, 2, 16, 3, 2, 4, 8
    count = SAMPLES // patch
    config = dict(kind="vim", width=width, layers=layers, inner=inner, state=state, rank=rank, conv=taps, patch=patch, patches=count)
    shapes = patch_tensors(width, patch, count) | {"norm_f.weight": (width,)}
    for i in range(layers):
        shapes |= {f"layers.{i}.norm.weight": (width,), f"layers.{i}.mixer.in_proj.weight": (2 * inner, width),
                   f"layers.{i}.mixer.out_proj.weight": (width, inner)}
        for s, a in (("", "A_log"), ("_b", "A_b_log")):
            m = f"layers.{i}.mixer."
            shapes |= {m + f"conv1d{s}.weight": (inner, 1, taps), m + f"conv1d{s}.bias": (inner,),
                       m + f"x_proj{s}.weight": (rank + 2 * state, inner), m + f"dt_proj{s}.weight": (inner, rank),
                       m + f"dt_proj{s}.bias": (inner,), m + a: (inner, state), m + f"D{s}": (inner,)}
    w = draw(shapes, generator)
    mixer = MambaMixer(MambaConfig(hidden_size=width, state_size=state, expand=2,
                                   time_step_rank=rank, conv_kernel=taps, use_bias=False, use_conv_bias=True), layer_idx=0)

    def direction(y, i, s, a):
        m = f"layers.{i}.mixer."
        state = {f"{n}.{p}": w[m + f"{n}{s}.{p}"] for n, p in (("conv1d", "weight"), ("conv1d", "bias"), ("x_proj", "weight"),
                                                              ("dt_proj", "weight"), ("dt_proj", "bias"))}
        state |= {"A_log": w[m + a], "D": w[m + f"D{s}"], "in_proj.weight": w[m + "in_proj.weight"],
                  "out_proj.weight": w[m + "out_proj.weight"]}

        class Slow(nn.Module):
            def __init__(self): super().__init__(); self.inner = mixer
            def forward(self, y): return self.inner._slow_forward(y)
        return torch.func.functional_call(Slow(), {f"inner.{k}": v for k, v in state.items()}, (y,))

    def rms(y, weight): return y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-5) * weight

    def forward(x):
        half = count // 2
        y = patches(w, x, width, patch, half)
        for i in range(layers):
            n = rms(y, w[f"layers.{i}.norm.weight"])
            y = y + (direction(n, i, "", "A_log") + direction(n.flip(1), i, "_b", "A_b_log").flip(1)) / 2
        y = rms(y, w["norm_f.weight"])
        return torch.cat([y[:, half:half + 1], y[:, :half], y[:, half + 1:]], 1)

    return config, w, forward


def basic(generator):
    width, blocks = 4, [2, 1]
    config = dict(kind="resnet1d", width=width, stem_kernel=7, stem_stride=2, blocks=blocks, block="basic")
    shapes, plan, inputs = {}, [], width

    def norm(name, c):
        for part in ("weight", "bias", "running_mean", "running_var"): shapes[f"{name}.{part}"] = (c,)

    shapes["conv1.weight"] = (width, LEADS, 7); norm("bn1", width)
    for stage, count in enumerate(blocks):
        for i in range(count):
            name, out, stride = f"layer{stage + 1}.{i}", width << stage, 2 if stage and not i else 1
            shapes[f"{name}.conv1.weight"] = (out, inputs, 3); norm(f"{name}.bn1", out)
            shapes[f"{name}.conv2.weight"] = (out, out, 3); norm(f"{name}.bn2", out)
            if stride != 1 or inputs != out:
                shapes[f"{name}.shortcut.0.weight"] = (out, inputs, 1); norm(f"{name}.shortcut.1", out)
            plan.append((name, stride)); inputs = out
    w = draw(shapes, generator)
    for name in w:
        if name.endswith("running_var"): w[name] = w[name].detach().abs() + 0.5
        if name.endswith("running_mean"): w[name] = w[name].detach()

    def bn(x, name):
        return nn.functional.batch_norm(x, *(w[f"{name}.{p}"] for p in ("running_mean", "running_var", "weight", "bias")))

    def forward(x):
        conv = nn.functional.conv1d
        y = torch.relu(bn(conv(x, w["conv1.weight"], stride=2, padding=3), "bn1"))
        for name, stride in plan:
            z = torch.relu(bn(conv(y, w[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn1"))
            z = bn(conv(z, w[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
            if f"{name}.shortcut.0.weight" in w:
                y = bn(conv(y, w[f"{name}.shortcut.0.weight"], stride=stride), f"{name}.shortcut.1")
            y = torch.relu(y + z)
        return y.transpose(1, 2)

    return config, w, forward


def main():
    a = argparse.ArgumentParser(); a.add_argument("out"); a.add_argument("--seed", type=int, default=3); a = a.parse_args()
    for name, make in (("vit1d", vit), ("vim", vim), ("resnet1d-basic", basic)):
        generator = torch.Generator().manual_seed(a.seed)
        trunk, w, forward = make(generator)
        x = torch.randn((BATCH, LEADS, SAMPLES), generator=generator)
        frames = forward(x)
        target = torch.randn(frames.shape, generator=generator)
        (frames * target).sum().backward()
        io = {"x": x, "frames": frames.detach(), "target": target}
        io |= {f"grad.{n}": t.grad for n, t in w.items() if t.requires_grad}
        out = pathlib.Path(a.out) / name; out.mkdir(parents=True, exist_ok=True)
        config = dict(leads=LEADS, decimation=1, trunk=trunk, hidden=8, dim=4, tokens=3, time_embedding=False)
        (out / "encoder.json").write_text(json.dumps(config, indent=1) + "\n")
        save_file({n: t.detach().contiguous() for n, t in w.items()}, out / "encoder.safetensors")
        save_file({n: t.contiguous() for n, t in io.items()}, out / "io.safetensors")
        print(name, tuple(frames.shape), float(frames.abs().max()))


if __name__ == "__main__":
    main()
