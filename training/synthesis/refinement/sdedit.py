"""Apply the denoising network: add the noise of t steps, then take it away (SDEdit: Meng et al. 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from monai.inferers.utils import sliding_window_inference

from pasta.inference.device import fast_precision
from training.synthesis.refinement.diffusion import (
    HALF_RANGE_HU,
    STEPS_ALLOWED,
    RefinementError,
    load_weights,
    noise_schedule,
    scaled,
)
from training.synthesis.templates import AIR_HU

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from training.synthesis.refinement.diffusion import Run

OVERLAP = 0.25


class Refiner:
    """A trained network that refines volumes.

    Args:
        network: of `diffusion.build_network`.
        run: that trained it; its patch is the sliding window.
        device: where windows are computed.
        windows_at_once: on the device.
    """

    def __init__(
        self, network: nn.Module, run: Run, device: torch.device, windows_at_once: int = 4
    ) -> None:
        self.network = network.to(device).eval()
        self.run, self.device = run, device
        self.windows_at_once = windows_at_once
        self.schedule = noise_schedule()

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Refiner:
        """Read weights that `train` wrote.

        Raises:
            CheckpointError: if they are missing, damaged or do not fit.
        """
        return cls(*load_weights(folder), device)

    def refined(
        self, hu: NDArray[np.int16], organ: NDArray[np.bool_], steps: int, seed: int
    ) -> NDArray[np.float32]:
        """Refine a whole volume; guards are applied afterwards (`guards.guarded`).

        All windows of one time step are blended into one noise estimate before the step is taken:
        windows refined apart would get noise of their own, and blending that blurs the seams.

        Args:
            hu: (I, J, K) at 1 mm.
            organ: (I, J, K), the organ with its lesion.
            steps: t; 0 changes nothing.
            seed: of the noise.

        Returns:
            (I, J, K) HU. What lies beyond +-1000 HU keeps its difference to them.

        Raises:
            RefinementError: if the steps are not among those allowed, or the shapes differ.
        """
        if steps not in STEPS_ALLOWED:
            allowed = ", ".join(map(str, STEPS_ALLOWED))
            msg = f"t is {steps}, expected one of {allowed}. Choose one of them with --t."
            raise RefinementError(msg)
        if hu.shape != organ.shape or hu.ndim != 3:
            msg = f"volume has shape {hu.shape}, organ mask {organ.shape}. Give them on one grid."
            raise RefinementError(msg)
        if steps == 0:
            return hu.astype(np.float32)
        sides = [(0, max(0, self.run.patch - n)) for n in hu.shape]
        clean = scaled(torch.from_numpy(np.pad(hu, sides, constant_values=AIR_HU)))[None, None]
        mask = torch.from_numpy(np.pad(organ, sides))[None, None].float()
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(clean.shape, generator=generator)
        x = self.schedule.add_noise(clean, noise, torch.tensor([steps - 1]))
        for step in range(steps - 1, -1, -1):
            x, _ = self.schedule.step(self._noise(x, mask, step), step, x, generator)
        change = (x - clean)[0, 0].numpy()[tuple(slice(0, n) for n in hu.shape)]
        return np.asarray(hu + np.float32(HALF_RANGE_HU) * change, dtype=np.float32)

    def _noise(self, x: torch.Tensor, mask: torch.Tensor, step: int) -> torch.Tensor:
        """Predict the noise of a volume window by window."""

        def predict(windows: torch.Tensor) -> torch.Tensor:
            times = torch.full((len(windows),), step, device=windows.device)
            with fast_precision(self.device):
                out: torch.Tensor = self.network(windows, times)
            return out.float()

        with torch.inference_mode():
            out = sliding_window_inference(
                torch.cat((x, mask), dim=1),
                roi_size=self.run.window,
                sw_batch_size=self.windows_at_once,
                predictor=predict,
                overlap=OVERLAP,
                mode="gaussian",
                sw_device=self.device,
                device=torch.device("cpu"),  # the volume need not fit the GPU
            )
        if not isinstance(out, torch.Tensor):  # MONAI returns what the predictor returns
            msg = "the network returned more than one tensor."
            raise RefinementError(msg)
        return out.clone()
