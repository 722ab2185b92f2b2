"""The published PASTA UNet and narrower members of the same family.

Module and parameter names are those of the public checkpoints (`Generic_UNet`, nnU-Net v1 style),
so that a published file loads strictly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterable

NUM_POOLS = 5  # strides 1, 2, 4, 8, 16, 32
PATCH_DIVISOR = 2**NUM_POOLS
FULL_WIDTH = 64
HIDDEN_FEATURES = (512, 256)  # of the MLP head (paper, Methods 3), at every width


def level_channels(width: int) -> list[int]:
    """List the channels of the six resolutions, finest first; capped at 16 times the width."""
    return [width * min(2**level, 16) for level in range(NUM_POOLS + 1)]


class ConvNormNonlin(nn.Module):
    """3x3x3 convolution with bias, instance norm, leaky ReLU (slope 0.01)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.instnorm = nn.InstanceNorm3d(out_channels, eps=1e-5, affine=True)
        self.lrelu = nn.LeakyReLU(0.01, inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lrelu(self.instnorm(self.conv(x)))  # type: ignore[no-any-return]


class StackedConvLayers(nn.Module):
    """Convolution blocks in a row; the first one carries the stride."""

    def __init__(self, in_channels: int, out_channels: int, count: int, stride: int = 1) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            ConvNormNonlin(in_channels, out_channels, stride),
            *(ConvNormNonlin(out_channels, out_channels) for _ in range(count - 1)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x)  # type: ignore[no-any-return]


def _init_weights(modules: Iterable[nn.Module]) -> None:
    for module in modules:
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(module.weight, a=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class PastaUNet(nn.Module):
    """Segmentation network of PASTA (paper, Methods 3; channels and names as in its public code).

    Args:
        num_classes: output channels, background included (26 for the published pretraining).
        width: channels of the finest level; 64 is the published network (240 M parameters), 16 has
            15 M and 8 has 3.8 M. Deeper levels double up to 16 times the width.
        in_channels: input channels, 1 for CT.
    """

    def __init__(self, num_classes: int, width: int = FULL_WIDTH, in_channels: int = 1) -> None:
        super().__init__()
        channels = level_channels(width)
        self.deep_supervision = False
        context: list[nn.Module] = []
        previous = in_channels
        for level in range(NUM_POOLS):
            stride = 1 if level == 0 else 2
            context.append(StackedConvLayers(previous, channels[level], 2, stride))
            previous = channels[level]
        context.append(
            nn.Sequential(
                StackedConvLayers(previous, channels[NUM_POOLS], 1, 2),
                StackedConvLayers(channels[NUM_POOLS], channels[NUM_POOLS], 1),
            )
        )
        self.conv_blocks_context = nn.ModuleList(context)

        localization: list[nn.Module] = []
        upsampling: list[nn.Module] = []
        heads: list[nn.Module] = []
        below = channels[NUM_POOLS]
        for level in reversed(range(NUM_POOLS)):
            here = channels[level]
            upsampling.append(nn.ConvTranspose3d(below, here, 2, stride=2, bias=False))
            localization.append(
                nn.Sequential(
                    StackedConvLayers(2 * here, here, 1), StackedConvLayers(here, here, 1)
                )
            )
            heads.append(nn.Conv3d(here, num_classes, 1, bias=False))
            below = here
        self.conv_blocks_localization = nn.ModuleList(localization)
        self.tu = nn.ModuleList(upsampling)
        self.seg_outputs = nn.ModuleList(heads)  # index 0 is the coarsest (stride 16)
        _init_weights(self.modules())

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Compute class logits.

        Args:
            x: (B, C, I, J, K), normalised; I, J, K divisible by 32.

        Returns:
            (B, num_classes, I, J, K) logits; with `deep_supervision` set, the list of all five
            outputs, finest first.
        """
        skips = []
        for context in self.conv_blocks_context[:-1]:
            x = context(x)
            skips.append(x)
        x = self.conv_blocks_context[-1](x)
        outputs = []
        last = len(self.tu) - 1
        for index, (up, localization) in enumerate(
            zip(self.tu, self.conv_blocks_localization, strict=True)
        ):
            x = localization(torch.cat((up(x), skips.pop()), dim=1))
            if self.deep_supervision or index == last:
                outputs.append(self.seg_outputs[index](x))
        return outputs[::-1] if self.deep_supervision else outputs[-1]


class PastaClassifier(nn.Module):
    """Encoder of the PASTA UNet with the MLP head on its stride-16 map.

    The head sits on level 4 (width x 16 channels), not on the bottleneck, as in the public
    classification code; the bottleneck and decoder of such checkpoints are unused.

    Args:
        num_outputs: logits of the head (14 or 13 for the attributes, 2 for screening).
        width: channels of the finest level.
        in_channels: input channels, 1 for CT.
    """

    def __init__(self, num_outputs: int, width: int = FULL_WIDTH, in_channels: int = 1) -> None:
        super().__init__()
        channels = level_channels(width)[:NUM_POOLS]
        inputs = [in_channels, *channels[:-1]]
        self.conv_blocks_context = nn.ModuleList(
            StackedConvLayers(before, here, 2, 1 if level == 0 else 2)
            for level, (before, here) in enumerate(zip(inputs, channels, strict=True))
        )
        first, second = HIDDEN_FEATURES
        self.head = nn.Sequential(
            nn.Linear(channels[-1], first),
            nn.LeakyReLU(0.01),
            nn.Linear(first, second),
            nn.LeakyReLU(0.01),
            nn.Linear(second, num_outputs),
        )
        _init_weights(self.modules())

    def feature_map(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the stride-16 map, (B, 16 x width, I/16, J/16, K/16)."""
        for context in self.conv_blocks_context:
            x = context(x)
        return x

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the pooled feature vector, (B, 16 x width); 1024 in the published network."""
        return self.feature_map(x).mean(dim=(2, 3, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute logits, (B, num_outputs), of normalised (B, C, I, J, K) patches."""
        return self.head(self.features(x))  # type: ignore[no-any-return]
