"""MONAI Label app made of stock transforms: load, orient, 1.5 mm, threshold, restore, write."""

from __future__ import annotations

import sys
import types

# monailabel.transform.post imports two drawing functions that Restored never calls; this spares
# the peer a torchvision that matches the torch at hand
drawing = types.ModuleType("torchvision.utils")
drawing.make_grid = drawing.save_image = None
sys.modules.update({"torchvision": types.ModuleType("torchvision"), "torchvision.utils": drawing})

from monai.inferers import SimpleInferer
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    ScaleIntensityRanged,
    Spacingd,
)
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.infer.basic_infer import BasicInferTask
from monailabel.transform.post import Restored

from benchmarks.noop import SPACING_MM, Threshold


def without_path(data):
    """Spacingd of MONAI 1.6 fails on MONAI Label's own key `image_path`."""
    return {key: value for key, value in data.items() if key != "image_path"}


class StockSegmentation(BasicInferTask):
    def __init__(self):
        super().__init__(
            path=None,
            network=Threshold(),
            type=InferType.SEGMENTATION,
            labels={"background": 0, "bone": 1},
            dimension=3,
            description="stock transforms",
        )

    def is_valid(self):
        return True

    def pre_transforms(self, data=None):
        return [
            without_path,
            LoadImaged(keys="image"),
            EnsureChannelFirstd(keys="image"),
            Orientationd(keys="image", axcodes="RAS"),
            Spacingd(keys="image", pixdim=SPACING_MM),
            ScaleIntensityRanged(keys="image", a_min=-1000, a_max=3000, b_min=-1, b_max=3),
        ]

    def inferer(self, data=None):
        return SimpleInferer()

    def inverse_transforms(self, data=None):
        return []  # undo all; None leaves the mask reoriented

    def post_transforms(self, data=None):
        return [
            Activationsd(keys="pred", softmax=True),
            AsDiscreted(keys="pred", argmax=True),
            Restored(keys="pred", ref_image="image"),
        ]

    def writer(self, data, extension=None, dtype=None):
        return super().writer(data, extension=".nii.gz", dtype="uint8")


class StockApp(MONAILabelApp):
    def __init__(self, app_dir, studies, conf):
        super().__init__(app_dir, studies, conf, name="stock", version="0")

    def init_infers(self):
        return {"pasta_segmentation": StockSegmentation()}

    def init_trainers(self):
        return {}

    def init_strategies(self):
        return {}

    def init_scoring_methods(self):
        return {}
