"""A reader in a process of its own, to be killed: opens a case, draws, and goes on drawing."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.slicer_extension.module import harness


def main() -> None:
    """Work until killed; tell on stdout what a draft on the disk holds."""
    folder, url, case = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    desk = harness.Desk(folder, url, size=(1000, 700), autosave_seconds=5)
    desk.connect()
    desk.open(case)
    desk.until(lambda: desk.flow.reading.documents, 120, "the diagnosis")
    reading = desk.flow.reading
    bounds = [0.0] * 6
    reading.volumeNode.GetRASBounds(bounds)
    centre = [(bounds[axis] + bounds[axis + 1]) / 2 for axis in (0, 2, 4)]
    desk.flow.editing.addLesion("liver_cyst")
    desk.widget.edit.ui.editor.hostPaint([centre[0] + 60, centre[1], centre[2]], 8.0)
    desk.widget.report.ui.impressionEdit.setPlainText("Written before the crash.")
    desk.spin(0.8)
    desk.until(lambda: not reading.isDirty, 20, "the draft")
    segment = desk.flow.editing.segments()[reading.selected]
    told = {"number": reading.selected, "voxels": segment.voxels, "faults": desk.faults()}
    print(f"READY {json.dumps(told)}", flush=True)
    desk.widget.report.ui.impressionEdit.setPlainText("Not on the disk yet.")
    desk.spin(600)


if __name__ == "__main__":
    main()
