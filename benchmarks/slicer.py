"""How fast the Slicer extension opens, imports, scrolls and saves, in the headless host.

python -m benchmarks.slicer [--size 512 512 300] [--seconds 4]

The CT and labels are synthetic (an ellipsoid body with ten organs and several lesions): only their
size matters here. Rates depend on the machine's software rendering; the ratio to bare slice views,
the same views with the same CT and without anything of this module, does not.
"""

from __future__ import annotations

import argparse
import collections
import os
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "slicer_extension" / "PASTAAid"))

SPACING_MM = (0.75, 0.75, 1.5)
BARE_LAYOUT = 27999


def phantom(shape):
    """Make a CT with noise and a labelmap: ten organs, eight lesions in them."""
    rng = np.random.default_rng(1)
    grid = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    body = grid[0] ** 2 / 0.7 + grid[1] ** 2 / 0.5 + grid[2] ** 2 * 0.2 < 1
    ct = np.where(body, 40, -1000).astype(np.int16)
    ct += rng.integers(-20, 20, shape, dtype=np.int16)
    values = np.zeros(shape, np.uint8)
    for organ in range(1, 11):
        at = rng.uniform(-0.45, 0.45, 3)
        values[ball(grid, at, 0.16)] = organ
    for lesion in range(8):
        at = rng.uniform(-0.5, 0.5, 3)
        values[ball(grid, at, 0.04)] = 11 + lesion % 5
    return ct, values


def ball(grid, at, radius):
    return sum((axis - centre) ** 2 for axis, centre in zip(grid, at, strict=True)) < radius**2


def timed(work):
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def scrolling(app, seconds):
    """Scroll the axial view by one slice a frame; return frames a second."""
    widgets = [app.layoutManager().sliceWidget(name) for name in ("Red", "Green", "Yellow")]
    logic = widgets[0].sliceLogic()
    start = logic.GetSliceOffset()
    frames, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        logic.SetSliceOffset(start + SPACING_MM[2] * (frames % 60 - 30))
        widgets[0].sliceView().renderWindow().Render()
        frames += 1
    rate = frames / (time.perf_counter() - began)
    logic.SetSliceOffset(start)
    return rate


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=3, default=(512, 512, 300))
    parser.add_argument("--seconds", type=float, default=4.0, help="of each scrolling run")
    parser.add_argument("--rounds", type=int, default=3, help="of scrolling, bare and ours in turn")
    arguments = parser.parse_args(argv)
    from tests.slicer_host import boot, spin

    app = boot(size=(1500, 900))
    import slicer
    from PASTAAidGui.Masks import Masks
    from PASTAAidGui.Views import LAYOUTS, Views

    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ct, values = phantom(tuple(arguments.size))
        affine = np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2], 1])
        for file, array in (("ct", ct), ("mask", values)):
            nib.save(
                nib.Nifti1Image(array, affine),
                folder / f"{file}.nii.gz",
            )
        views, masks = Views(), Masks()
        views.install()
        views.setLayout("threeRow")
        spin(0.3)

        def open_case():
            shown = []
            volume = slicer.util.loadVolume(str(folder / "ct.nii.gz"), {"show": False})
            views.showVolume(volume)
            views.setWindow("soft tissue")
            views.whenDisplayed(lambda: shown.append(True))
            while not shown:
                app.processEvents()
            return volume

        volume, wall, cpu = timed(open_case)
        rows.append(("open CT to three drawn views", wall, cpu))
        node, wall, cpu = timed(lambda: masks.fromLabelmap(folder / "mask.nii.gz", volume, None))
        rows.append((f"import {len(masks.lesions(node))} lesions and 10 organs", wall, cpu))
        rows.append(("list lesions", *timed(lambda: masks.lesions(node))[1:]))
        rows.append(
            ("save draft", *timed(lambda: masks.saveDraft(node, folder / "d.seg.nrrd"))[1:])
        )
        rows.append(
            (
                "write and verify labelmap",
                *timed(lambda: masks.toLabelmap(node, volume, folder / "o.nii.gz"))[1:],
            )
        )
        views.setCrosshair(True)
        rates = collections.defaultdict(list)
        for _round in range(arguments.rounds):
            views.setMaskDisplay("outline+fill")
            spin(0.2)
            scrolling(app, 0.5)  # warm up
            rates["ours, outline and fill"].append(scrolling(app, arguments.seconds))
            for mode in ("outline", "fill", "off"):
                views.setMaskDisplay(mode)
                spin(0.2)
                rates[f"ours, {mode}"].append(scrolling(app, arguments.seconds))
            views.remove()
            layouts = app.layoutManager().layoutLogic().GetLayoutNode()
            layouts.AddLayoutDescription(BARE_LAYOUT, LAYOUTS["threeRow"])  # views of the same size
            app.layoutManager().setLayout(BARE_LAYOUT)
            slicer.util.setSliceViewerLayers(background=volume, fit=True)
            spin(0.2)
            scrolling(app, 0.5)
            node.GetDisplayNode().SetVisibility(True)
            node.GetDisplayNode().SetVisibility2DFill(True)
            node.GetDisplayNode().SetVisibility2DOutline(True)
            rates["bare, the same masks"].append(scrolling(app, arguments.seconds))
            slicer.mrmlScene.RemoveNode(node)
            spin(0.2)
            rates["bare"].append(scrolling(app, arguments.seconds))
            views = Views()
            views.install()
            views.setLayout("threeRow")
            views.showVolume(volume)
            views.setCrosshair(True)
            node = masks.fromLabelmap(folder / "mask.nii.gz", volume, None)
            views.showMasks(node)
        sys.stdout.write(
            f"| {'x'.join(map(str, arguments.size))} | wall s | CPU s |\n|---|---|---|\n"
        )
        for title, wall, cpu in rows:
            sys.stdout.write(f"| {title} | {wall:.2f} | {cpu:.2f} |\n")
        best = {title: max(values) for title, values in rates.items()}
        sys.stdout.write("\n| scrolling | frames/s | ratio to bare |\n|---|---|---|\n")
        for title, rate in best.items():
            sys.stdout.write(f"| {title} | {rate:.1f} | {rate / best['bare']:.2f} |\n")
        views.remove()
    return 0


if __name__ == "__main__":
    sys.exit(main())
