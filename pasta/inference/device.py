"""Which device runs a network, and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import nn

from pasta.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Iterable


def chosen_device(name: str = "auto") -> torch.device:
    """Turn "auto", "cpu", "cuda" or "cuda:1" into a device; "auto" takes a GPU where there is one.

    Raises:
        DeviceError: if the device is unknown or not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    usable = device.type == "cpu" or (
        device.type == "cuda" and (device.index or 0) < torch.cuda.device_count()
    )
    if not usable:
        msg = f"device {name!r} is not available here; use auto, cpu or cuda[:index]."
        raise DeviceError(msg)
    return device


def _cpu_has_bf16() -> bool:
    """Tell whether the CPU multiplies bf16 in hardware; emulated, it is slower than float32."""
    avx512 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return bool(avx512() or amx())


def _fast_dtype(device: torch.device) -> torch.dtype | None:
    """Name the reduced precision that pays on this device; None keeps float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if device.type == "cpu" and _cpu_has_bf16() else None


def fast_precision(device: torch.device) -> AbstractContextManager[object]:
    """Autocast to the reduced precision that pays on this device, if any."""
    dtype = _fast_dtype(device)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def cast_kernels(networks: Iterable[nn.Module], device: torch.device) -> None:
    """Round convolution kernels once, in place, as `fast_precision` does at every call.

    The answers stay the same to the last bit; half the weights' memory is given back.

    Args:
        networks: that run only under `fast_precision` from now on.
        device: where they run.
    """
    dtype = _fast_dtype(device)
    if dtype is None:
        return
    for network in networks:
        for module in network.modules():
            if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
                module.to(dtype)
