"""Take a picture of every state of the panel at 1920x1080, in the test host, with the shipped weights.

    python tests/slicer_extension/module/screenshots.py --out out/slicer

The pictures show the module's real code over Slicer's real slice rendering, but not Slicer itself.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.slicer_extension.module import harness

CASES = ("crlm_1004", "crlm_1006", "nsclcrg_r01_001", "acrin_flt_001", "tcga_ov_2043")
NODULE = "nsclcrg_r01_001"
WEIGHTS = harness.ROOT / "pasta" / "weights"


def main() -> None:
    """Start a server, read a few cases, take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--only-study", action="store_true", help="the states of a study alone")
    parser.add_argument("--data", type=Path, default=harness.ROOT.parent / "shared" / "data")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="pasta-pictures-"))
    studies = work / "studies"
    studies.mkdir()
    for case in CASES:
        shutil.copy(arguments.data / "ct" / case / "ct.nii.gz", studies / f"{case}.nii.gz")
    try:
        if not arguments.only_study:
            server = harness.serving().Server(studies, WEIGHTS, work / "log")
            try:
                keep_a_label(server, arguments.data, work)
                take(server, work, arguments.out)
            finally:
                server.stop()
        take_study(studies, work, arguments.out)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def keep_a_label(server, data: Path, work: Path) -> None:
    """Save the nodule that comes with one CT as an earlier version of the reader."""
    import nibabel as nib
    import numpy as np

    from pasta.labels import label_named

    drawn = nib.load(data / "ct" / NODULE / "lesions.nii.gz")
    values = (np.asarray(drawn.dataobj) == 1) * label_named("lung_tumor").value
    path = work / "label.nii.gz"
    nib.save(nib.Nifti1Image(values.astype(np.uint8), drawn.affine), path)
    files = {
        "label": ("label.nii.gz", path.read_bytes()),
        "params": (None, json.dumps({"reader": "R1"})),
    }
    query = {"image": NODULE, "tag": "final"}
    answer = server.request("PUT", "/datastore/label", params=query, files=files)
    answer.raise_for_status()


def crash(folder: Path, url: str) -> None:
    """Let a reader in another process be killed in the middle of the work."""
    script = Path(__file__).with_name("reader_process.py")
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder), url, "crlm_1006"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=harness.ROOT,
    )
    next(line for line in process.stdout if line.startswith("READY "))
    process.kill()
    process.wait()


def take(server, work: Path, out: Path) -> None:
    """Go through the states."""
    crash(work / "reader", server.url)
    desk = harness.Desk(work / "reader", server.url, autosave_seconds=20)
    widget, flow = desk.widget, desk.flow

    def picture(name: str) -> None:
        desk.spin(0.4)
        desk.host.screenshot(str(out / f"{name}.png"))

    picture("00_recovery")
    flow.answer(False)
    picture("01_start")
    desk.connect()
    picture("02_worklist")
    flow.cases.open("crlm_1004")
    desk.shown("crlm_1004")
    desk.until(lambda: flow.progresses.get("ai") and flow.progresses["ai"].fraction > 0.2, 60)
    picture("03_ai_running")
    desk.idle()
    picture("04_ai_result")

    widget.goTo("Edit")
    combo = widget.edit.ui.labelCombo
    combo.setCurrentIndex(combo.findData("liver_tumor"))
    desk.click(widget.edit.ui.addButton)
    bounds = [0.0] * 6
    flow.reading.volumeNode.GetRASBounds(bounds)
    centre = [(bounds[axis] + bounds[axis + 1]) / 2 for axis in (0, 2, 4)]
    spot = [centre[0] + 70, centre[1] + 20, centre[2]]
    editor = widget.edit.ui.editor
    editor.setActiveEffectByName("Paint")
    editor.hostPaint(spot, 11.0)
    editor.hostPaint([spot[0] + 8, spot[1] + 4, spot[2]], 8.0)
    desk.spin(0.8)
    flow.editing.select(flow.reading.selected)
    picture("05_editing")
    editor.setActiveEffectByName("")
    widget.goTo("Report")
    flow.editing.remeasure()
    flow.saving.autosave()
    picture("06_own_lesion")
    flow.pause("phone")
    picture("07_paused")
    flow.resume()

    desk.open("acrin_flt_001")
    desk.idle()
    widget.goTo("AI")
    flow.assistant.run("pasta_screening")
    desk.idle()
    widget.ai.ui.evidenceCheck.checked = True
    picture("08_screening")

    desk.open(NODULE)
    desk.until(lambda: flow.reading.report.lesions or flow.editing.segments(), 60)
    desk.idle()
    flow.assistant.run("pasta_report")
    desk.idle()
    widget.header.setWindow(1)
    widget.goTo("Report")
    flow.editing.select(flow.reading.report.lesions[0].number)
    picture("09_lesion_report")
    desk.press("Ctrl+Shift+Return")
    desk.press("Ctrl+Return")
    desk.until(lambda: flow.reading.receipt is not None, 60)
    picture("10_saved")
    widget.goTo("Cases")
    picture("11_worklist_later")
    widget.header.setLayout(1)
    widget.goTo("Report")
    picture("12_axial_large")
    widget.header.setLayout(0)

    flow.connection._client.url = "http://127.0.0.1:9"
    widget.report.ui.impressionEdit.setPlainText("Nodule of the right upper lobe.")
    desk.press("Ctrl+Return")
    desk.until(lambda: flow.status.kind == "error", 60)
    picture("13_error")
    flow.connection._client.url = server.url

    settings(desk, out / "14_settings.png")
    desk.close()
    print(f"pictures in {out}; faults: {desk.faults()}")


def take_study(images: Path, work: Path, out: Path) -> None:
    """Read a first case of a study, once solo and once assisted."""
    studying = harness.studying()
    names = [path.name.removesuffix(".nii.gz") for path in sorted(images.glob("*.nii.gz"))]
    for name in list(names):  # both arms need cases of both kinds
        shutil.copy(images / f"{name}.nii.gz", images / f"{name}-again.nii.gz")
        names.append(f"{name}-again")
    studies = work / "reader-studies"
    codes = studying.make_study(
        studies / "liver", WEIGHTS, names[1:], study_id="liver", training=[names[-1]]
    )
    server = harness.serving().Server(
        images, WEIGHTS, work / "log-study", **studying.environment(studies)
    )
    try:
        desk = harness.Desk(work / "study-reader", server.url)
        desk.widget.goTo("Study")
        for reader in codes:
            harness.log_in(desk, "liver", codes[reader])
            harness.on_screen(desk, seconds=400)
            if desk.flow.assisted:
                desk.until(lambda: len(desk.flow.reading.documents) == 2, 120)
            desk.press("F9")
            desk.press("Ctrl+Return")
            harness.on_screen(desk, desk.flow.study.case.code, 400)
            if desk.flow.assisted:
                desk.until(lambda: len(desk.flow.reading.documents) == 2, 120)
            desk.press("F7")
            desk.spin(0.4)
            arm = desk.flow.study.seat.arm
            desk.host.screenshot(str(out / f"15_study_{arm}.png"))
            harness.end_session(desk)
        desk.host.screenshot(str(out / "16_study_over.png"))
        print(f"faults: {desk.faults()}")
        desk.close()
    finally:
        server.stop()


def settings(desk, path: Path) -> None:
    """Show the page of Slicer's settings in a window of its own."""
    import slicer

    desk.host.startup_completed()
    panel = slicer.app.settingsDialog().panels["PASTA-AID"]
    panel.resize(640, 480)
    panel.show()
    desk.spin(0.3)
    panel.grab().save(str(path))
    panel.hide()


if __name__ == "__main__":
    main()
