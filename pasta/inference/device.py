"""Which device runs a network, and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from pasta.errors import DeviceError


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


def fast_precision(device: torch.device) -> AbstractContextManager[object]:
    """Autocast to the reduced precision that pays on this device, if any."""
    if device.type == "cuda":
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        return torch.autocast("cuda", dtype)
    if _cpu_has_bf16():
        return torch.autocast("cpu", torch.bfloat16)
    return nullcontext()
