"""Runs training steps of facebookresearch/mae's own model, for `peer.py`. Needs PyTorch, timm and a clone, but not pf_keras.

Reads a number of steps from each line of standard input, and answers with the seconds that they took.
"""

import json
import sys
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from experiments.mae.clone import add_clone

request = json.loads(sys.argv[1])
add_clone(request["clone"])


def build(depth: int) -> torch.nn.Module:
    """The model: ViT-L at paper size, else a ViT of our width with `depth` blocks."""
    import models_mae

    if request["paper"]:
        return models_mae.mae_vit_large_patch16()
    width, heads = request["width"], request["heads"]
    size = {"img_size": request["image_size"], "patch_size": request["patch_size"], "embed_dim": width, "num_heads": heads}
    decoder = {"decoder_embed_dim": width // 2, "decoder_num_heads": heads // 2, "decoder_depth": 2}
    return models_mae.MaskedAutoencoderViT(**size, depth=depth, **decoder)


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    """Run a training step. Returns the loss."""
    loss, _, _ = model(images)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def count(model: torch.nn.Module) -> int:
    """The FLOPs of a step, forward and backward."""
    # The counter misses a CPU's fused attention kernel. It counts the products of the plain one.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(images)[0].backward()
    return counter.get_total_flops()


torch.manual_seed(0)
images = torch.randn(request["images"], 3, request["image_size"], request["image_size"])
depth = 24 if request["paper"] else 1
if not request["paper"]:
    one, two = count(build(1)), count(build(2))
    depth = max(1, round((request["flops"] - one) / (two - one)) + 1)
model = build(depth)
optimizer = torch.optim.AdamW(model.parameters(), lr=1.5e-4, betas=(0.9, 0.95))
found = {"flops": count(model), "depth": depth, "width": model.pos_embed.shape[-1], "torch": torch.__version__}
print(json.dumps({**found, "parameters": sum(p.numel() for p in model.parameters())}), flush=True)
for line in sys.stdin:
    began = time.perf_counter()
    for _ in range(int(line)):
        loss = step(model, optimizer)
    float(loss.detach())
    print(json.dumps({"seconds": time.perf_counter() - began}), flush=True)
