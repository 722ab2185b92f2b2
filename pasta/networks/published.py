"""Reading the checkpoint files that PASTA and nnU-Net write, and saying what is in them.

Layouts: the flat `PASTA_final.pth`, nnU-Net's `checkpoint_final.pth` and the classification code's
`.tar`. Files are read with `weights_only`, so that none can run code.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from pasta.errors import CheckpointError
from pasta.labels import BACKGROUND, LABELS
from pasta.networks.checkpoint import stripped_name
from pasta.spec import Task, ZScore

if TYPE_CHECKING:
    from pathlib import Path

Layout = Literal["flat", "nnunet", "classification"]
FIRST_CONV = "conv_blocks_context.0.blocks.0.conv.weight"
LAST_SEGMENTATION = "seg_outputs.4.weight"
LAST_HEAD = "head.4.weight"
ALL_CLASSES = len(LABELS) + 1
# Parts of the UNet that a classification checkpoint carries and never uses.
UNUSED_BY_CLASSIFIER = (
    "conv_blocks_context.5.",
    "conv_blocks_localization.",
    "tu.",
    "seg_outputs.",
)
# nnU-Net reads files as arrays (z, y, x); PASTA's are stored LPS, so the axes point S, P, L.
NNUNET_AXCODES = "SPL"
REORIENTING_READER = "NibabelIOWithReorient"  # nnU-Net's reader that turns to RAS first
BROKEN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.PickleError,
    struct.error,
    zipfile.BadZipFile,
)  # what a damaged pickle or zip makes torch raise


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A published checkpoint file and what can be read from it.

    Attributes:
        path: of the file.
        sha256: of its bytes.
        layout: how the file is organised.
        state: tensors by name, without `module.` and `_orig_mod.`.
        width: channels of the first level, from the first convolution.
        in_channels: input channels, from the first convolution.
        num_classes: K of the segmentation heads, None without them.
        num_outputs: N of the MLP head, None without it.
        trainer: name of the trainer class, nnU-Net only.
        class_names: of the training data set, by label value, nnU-Net only.
        intensity: foreground statistics of the training data, nnU-Net only.
        axcodes: directions of the network's input axes, as far as the file tells.
        spacing_mm: of the network's input, along its axes.
        patch_shape: of the training, None if not told.
    """

    path: Path
    sha256: str
    layout: Layout
    state: Mapping[str, torch.Tensor]
    width: int
    in_channels: int
    num_classes: int | None
    num_outputs: int | None
    trainer: str = ""
    class_names: tuple[str, ...] = ()
    intensity: ZScore | None = None
    axcodes: str = NNUNET_AXCODES
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    patch_shape: tuple[int, int, int] | None = None

    @property
    def parameters(self) -> int:
        """Numbers stored in all tensors."""
        return sum(tensor.numel() for tensor in self.state.values())

    @property
    def task(self) -> Task | None:
        """The task that the file was surely made for, or None where it must be told.

        A file of the classification code holds segmentation heads too, with as many classes as the
        MLP head has outputs; they were never trained.
        """
        attributes, screening = self.num_outputs in (13, 14), self.num_outputs == 2
        if self.layout == "nnunet" or self.num_outputs is None:
            return "segmentation" if self.num_classes is not None else None
        if self.layout == "flat" and self.num_classes == ALL_CLASSES:
            return "segmentation"
        if self.layout == "classification" or self.num_classes in (None, self.num_outputs):
            return "attributes" if attributes else "screening" if screening else None
        return None

    @property
    def channels(self) -> tuple[str, ...]:
        """Label name of each segmentation channel, or empty where only the user can tell."""
        if self.num_classes is None:
            return ()
        names = tuple(_label_name(name) for name in self.class_names)
        if names and len(names) == self.num_classes and all(names):
            return tuple(name or "" for name in names)
        every = (BACKGROUND, *(label.name for label in LABELS))
        fits = all(name is None or name == every[i] for i, name in enumerate(names))
        return every if self.num_classes == ALL_CLASSES and fits else ()

    def report(self) -> list[str]:
        """Say in lines what the file holds and what it can be used for."""
        layouts = {
            "flat": "flat dict of tensors (as PASTA_final.pth)",
            "nnunet": "nnU-Net checkpoint (network_weights)",
            "classification": "PASTA classification checkpoint (state_dict)",
        }
        lines = [
            f"{self.path.name}",
            f"  sha256      {self.sha256}",
            f"  layout      {layouts[self.layout]}",
            f"  tensors     {len(self.state)} ({self.parameters:,} parameters)",
            f"  network     PASTA UNet family, width {self.width}, {self.in_channels} in-channel(s)",
            f"  classes     {self._classes()}",
            f"  MLP head    {self._outputs()}",
        ]
        if self.trainer:
            lines.append(f"  trainer     {self.trainer}")
        if self.intensity is not None:
            low, high = self.intensity.clip_hu
            lines.append(
                f"  intensity   clip {low:g} to {high:g} HU, mean {self.intensity.mean_hu:g}, "
                f"sd {self.intensity.std_hu:g} (from the file's plans)"
            )
        return [*lines, *(f"  use         {line}" for line in self._uses())]

    def _classes(self) -> str:
        if self.num_classes is None:
            return "no segmentation heads"
        text = f"{self.num_classes} with background"
        return text + (f": {', '.join(self.class_names)}" if self.class_names else "")

    def _outputs(self) -> str:
        if self.num_outputs is None:
            return "none"
        meaning = {
            2: "screening: no tumour, tumour",
            13: "attributes 4+3+2+2+2",
            14: "attributes 5+3+2+2+2, the fifth shape is empty",
        }.get(self.num_outputs, "of unknown meaning")
        return f"{self.num_outputs} outputs ({meaning})"

    def _uses(self) -> list[str]:
        if self.in_channels != 1:
            return [f"none: the network takes {self.in_channels} channels, a CT has one."]
        uses = []
        if self.num_classes is not None:
            uses.append(f"segmentation, {self._segmentation_use()}")
        if self.num_outputs in (13, 14):
            uses.append("attributes, as it is")
        if self.num_outputs == 2:
            uses.append("screening, with --organs naming the organ it was trained on")
        return uses or ["none: there are neither segmentation heads nor a known MLP head."]

    def _segmentation_use(self) -> str:
        if self.num_classes == self.num_outputs:
            return (
                "doubtful: as many classes as MLP outputs, so the file comes from the "
                "classification code and its segmentation heads are probably untrained"
            )
        needs = []
        if not self.channels:
            needs.append("--labels naming the foreground classes in order")
        if self.intensity is None:
            needs.append("--clip-hu, --mean-hu and --std-hu, or --default-intensity")
        return f"with {' and '.join(needs)}" if needs else "as it is"


def inspect_checkpoint(path: Path) -> Checkpoint:
    """Read a published checkpoint file; tensors stay on disk until they are used, where possible.

    Raises:
        CheckpointError: if the file is missing, truncated, damaged, holds more than tensors and
            plain values, or is not a checkpoint of PASTA.
    """
    document = _loaded(path)
    layout, named = _layout(document, path)
    state: dict[str, torch.Tensor] = {}
    for name, tensor in named.items():
        plain = stripped_name(name) if isinstance(name, str) else str(name)
        if not isinstance(tensor, torch.Tensor):
            msg = f"{path}: entry {plain} of the weights is {type(tensor).__name__}, not a tensor."
            raise CheckpointError(msg)
        if plain in state:
            msg = f"{path}: tensor {plain} is there twice, with and without a prefix."
            raise CheckpointError(msg)
        state[plain] = tensor
    sizes = {}
    for name, dimensions in ((FIRST_CONV, 5), (LAST_SEGMENTATION, 5), (LAST_HEAD, 2)):
        found = state.get(name)
        if found is not None and found.ndim != dimensions:
            msg = f"{path}: tensor {name} has {found.ndim} dimensions, expected {dimensions}."
            raise CheckpointError(msg)
        sizes[name] = None if found is None else found.shape[0]
    if FIRST_CONV not in state:
        msg = (
            f"{path}: tensor {FIRST_CONV} is missing, so this is not the PASTA UNet. Its "
            f"{len(state)} tensors start with {next(iter(state), 'nothing')}."
        )
        raise CheckpointError(msg)
    extras = _nnunet_extras(document, path) if layout == "nnunet" else {}
    return Checkpoint(
        path=path,
        sha256=_sha256(path),
        layout=layout,
        state=state,
        width=state[FIRST_CONV].shape[0],
        in_channels=state[FIRST_CONV].shape[1],
        num_classes=sizes[LAST_SEGMENTATION],
        num_outputs=sizes[LAST_HEAD],
        **extras,
    )


def harmless_numpy() -> list[Any]:
    """List the NumPy types in nnU-Net's training log; building them runs no code of the file."""
    dtypes = [
        type(np.dtype(code)) for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?")
    ]
    multiarray = np.float64(0).__reduce__()[0]
    rebuild = np.zeros(1).__reduce__()[0]
    known: list[Any] = [np.dtype, np.ndarray, *dtypes]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # NumPy 1 and 2
        known += [(multiarray, f"{module}.scalar"), (rebuild, f"{module}._reconstruct")]
    return known


def _loaded(path: Path) -> Mapping[str, Any]:
    """Load a file that torch.save wrote, in the zip or the older format."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
        zipped = zipfile.is_zipfile(path)
    except OSError as error:
        msg = f"{path}: not readable ({error.strerror}). Check the path."
        raise CheckpointError(msg) from error
    if not start:
        msg = f"{path}: the file is empty. Download it again."
        raise CheckpointError(msg)
    if start.startswith(b"PK") and not zipped:
        msg = f"{path}: the file is truncated (its end is missing). Download it again."
        raise CheckpointError(msg)
    if start.lstrip().startswith((b"<!", b"<h", b"<H")):
        msg = f"{path}: a web page, not a checkpoint. Download the file itself, not its link."
        raise CheckpointError(msg)
    try:
        if zipped:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()  # torch does not look at the checksums
            if damaged:
                msg = f"{path}: the file is damaged (checksum of {damaged}). Download it again."
                raise CheckpointError(msg)
        with torch.serialization.safe_globals(harmless_numpy()), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # on pickle protocols torch rarely sees
            document = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except CheckpointError:
        raise
    except BROKEN as error:
        raise CheckpointError(_unloadable(path, error)) from error
    if not isinstance(document, Mapping):
        msg = f"{path}: holds a {type(document).__name__}, expected a dict of tensors."
        raise CheckpointError(msg)
    return document


def _unloadable(path: Path, error: BaseException) -> str:
    code = re.search(r"(?:GLOBAL|[Gg]lobal|class|function) ([\w.]+\.[\w.]+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and code:
        return (
            f"{path}: asks for {code[1]}, and loading that could run code; only tensors and plain "
            "values are read. Save the state_dict alone with torch.save and import that."
        )
    return (
        f"{path}: not a torch checkpoint, or damaged ({type(error).__name__}). Download it again, "
        "or check that it is the .pth or .tar file itself."
    )


def _layout(document: Mapping[str, Any], path: Path) -> tuple[Layout, Mapping[str, Any]]:
    layouts: tuple[tuple[str, Layout], ...] = (
        ("network_weights", "nnunet"),
        ("state_dict", "classification"),
    )
    for key, layout in layouts:
        if isinstance(document.get(key), Mapping):
            return layout, document[key]
    if document and all(isinstance(value, torch.Tensor) for value in document.values()):
        return "flat", document
    keys = ", ".join(sorted(str(key) for key in document)[:6]) or "nothing"
    msg = (
        f"{path}: no known layout; its keys are {keys}. Expected network_weights (nnU-Net), "
        "state_dict (PASTA classification) or tensors only (PASTA_final.pth)."
    )
    raise CheckpointError(msg)


def _nnunet_extras(document: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Take from nnU-Net's init_args what the network was trained with."""
    arguments = _mapping(document.get("init_args"))
    plans = _mapping(arguments.get("plans"))
    extras: dict[str, Any] = {"trainer": str(document.get("trainer_name") or "")}
    labels = _mapping(_mapping(arguments.get("dataset_json")).get("labels"))
    by_value = {value: str(name) for name, value in labels.items() if isinstance(value, int)}
    if labels and len(by_value) == len(labels):  # regions (lists of values) have no one name
        kept = {value: name for value, name in by_value.items() if name != "ignore"}
        if sorted(kept) == list(range(len(kept))):
            extras["class_names"] = tuple(kept[value] for value in range(len(kept)))
    try:
        extras.update(_plans_extras(plans, str(arguments.get("configuration", ""))))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        msg = f"{path}: the nnU-Net plans inside are not understood ({error!r})."
        raise CheckpointError(msg) from error
    return extras


def _plans_extras(plans: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    extras: dict[str, Any] = {}
    base = "SAR" if plans.get("image_reader_writer") == REORIENTING_READER else NNUNET_AXCODES
    order = plans.get("transpose_forward", (0, 1, 2))
    extras["axcodes"] = "".join(base[int(axis)] for axis in order)
    stages = _mapping(plans.get("configurations"))
    settings: dict[str, Any] = {}
    name: Any = configuration
    while name in stages and len(settings) < 1000:
        stage = _mapping(stages[name])
        settings = {**stage, **settings}
        name = stage.get("inherits_from")
    if len(settings.get("spacing", ())) == 3:
        i, j, k = (float(mm) for mm in settings["spacing"])
        extras["spacing_mm"] = (i, j, k)
    if len(settings.get("patch_size", ())) == 3:
        a, b, c = (int(n) for n in settings["patch_size"])
        extras["patch_shape"] = (a, b, c)
    schemes = list(settings.get("normalization_schemes", ("CTNormalization",)))
    channels = _mapping(plans.get("foreground_intensity_properties_per_channel"))
    found = _mapping(channels.get("0", channels.get(0)))
    if found and schemes[:1] == ["CTNormalization"]:
        clip = (float(found["percentile_00_5"]), float(found["percentile_99_5"]))
        extras["intensity"] = ZScore(clip, float(found["mean"]), float(found["std"]))
    return extras


def _mapping(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _label_name(name: str) -> str | None:
    """Match a data set's class name with one of PASTA's labels, by its name or title."""

    def plain(text: str) -> str:
        text = text.lower().replace("tumour", "tumor").replace("oesoph", "esoph")
        return re.sub(r"[^a-z0-9]+", "_", text).strip("_")

    if plain(name) == BACKGROUND:
        return BACKGROUND
    for label in LABELS:
        if plain(name) in (plain(label.name), plain(label.title)):
            return label.name
    return None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
