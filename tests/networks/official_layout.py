"""Names and shapes of the public PASTA checkpoints, typed from the published state_dict."""

import torch

PUBLISHED = (64, 128, 256, 512, 1024, 1024)  # channels of the six resolutions
NARROW = (4, 8, 16, 32, 64, 64)  # the same network at a sixteenth of the width


def _block(name: str, before: int, after: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}.conv.weight": (after, before, 3, 3, 3),
        f"{name}.conv.bias": (after,),
        f"{name}.instnorm.weight": (after,),
        f"{name}.instnorm.bias": (after,),
    }


def unet_shapes(channels=PUBLISHED, classes=26, in_channels=1) -> dict[str, tuple[int, ...]]:
    a, b, c, d, e, f = channels
    context = "conv_blocks_context"
    shapes: dict[str, tuple[int, ...]] = {}
    for level, (before, after) in enumerate([(in_channels, a), (a, b), (b, c), (c, d), (d, e)]):
        shapes |= _block(f"{context}.{level}.blocks.0", before, after)
        shapes |= _block(f"{context}.{level}.blocks.1", after, after)
    shapes |= _block(f"{context}.5.0.blocks.0", e, f) | _block(f"{context}.5.1.blocks.0", f, f)
    for up, (below, here) in enumerate([(f, e), (e, d), (d, c), (c, b), (b, a)]):
        name = f"conv_blocks_localization.{up}"
        shapes |= _block(f"{name}.0.blocks.0", 2 * here, here)
        shapes |= _block(f"{name}.1.blocks.0", here, here)
        shapes[f"tu.{up}.weight"] = (below, here, 2, 2, 2)
        shapes[f"seg_outputs.{up}.weight"] = (classes, here, 1, 1, 1)
    return shapes


def head_shapes(channels=PUBLISHED, outputs=14) -> dict[str, tuple[int, ...]]:
    return {
        "head.0.weight": (512, channels[4]),
        "head.0.bias": (512,),
        "head.2.weight": (256, 512),
        "head.2.bias": (256,),
        "head.4.weight": (outputs, 256),
        "head.4.bias": (outputs,),
    }


def random_state(shapes, seed=0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * 0.02 for name, shape in shapes.items()}
