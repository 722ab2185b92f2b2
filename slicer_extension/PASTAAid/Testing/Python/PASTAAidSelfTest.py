"""Self-test inside a real Slicer: module, layouts, masks there and back, report, clock; server if given.

By hand, in Slicer's Python console, with the module on the module path:

    import unittest, sys
    sys.path.append("<checkout>/slicer_extension/PASTAAid/Testing/Python")
    unittest.main("PASTAAidSelfTest", argv=["self-test"], exit=False)

The environment variable PASTA_SERVER, set before Slicer starts, names a PASTA-AID server to talk to as well.
"""

import os
import tempfile
import unittest
from pathlib import Path

import numpy as np
import slicer

SHAPE_KJI = (20, 40, 50)
SPACING_MM = (0.8, 0.9, 2.5)


def makeVolume():
    """Make a small CT-like volume: oblong voxels, shifted origin."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "PASTAAidSelfTest")
    slicer.util.updateVolumeFromArray(node, np.full(SHAPE_KJI, -50, np.int16))
    node.SetSpacing(*SPACING_MM)
    node.SetOrigin(-20.0, 15.0, 100.0)
    node.SetIJKToRASDirections(-1, 0, 0, 0, -1, 0, 0, 0, 1)  # the axes of most CTs: L, P, S
    node.CreateDefaultDisplayNodes()
    return node


class PASTAAidSelfTest(unittest.TestCase):
    """What can be seen without a person."""

    def setUp(self) -> None:
        """Start from an empty scene, outside the module."""
        slicer.mrmlScene.Clear(0)
        slicer.util.selectModule("Data")

    def tearDown(self) -> None:
        """Leave the module."""
        slicer.util.selectModule("Data")
        slicer.mrmlScene.Clear(0)

    def widget(self):
        """Open the module as a person does."""
        slicer.util.selectModule("PASTAAid")
        slicer.app.processEvents()
        return slicer.modules.PASTAAidWidget

    def test_moduleOpensAndGivesTheLayoutBack(self) -> None:
        """The module's layouts show three orthogonal views; leaving restores what was there."""
        manager = slicer.app.layoutManager()
        before = manager.layout
        views = self.widget().flow.views
        for name in ("threeRow", "axialLarge", "fourUp"):
            views.setLayout(name)
            slicer.app.processEvents()
            shown = [
                node.GetOrientation()
                for node in slicer.util.getNodesByClass("vtkMRMLSliceNode")
                if node.IsMappedInLayout()
            ]
            self.assertEqual(sorted(shown), ["Axial", "Coronal", "Sagittal"], name)
        slicer.util.selectModule("Data")
        self.assertEqual(manager.layout, before)

    def test_volumeIsShownInAllThreeViews(self) -> None:
        """Displaying is told once all views have rendered the volume."""
        views = self.widget().flow.views
        volume = makeVolume()
        told = []
        views.showVolume(volume)
        views.whenDisplayed(lambda: told.append(True))
        for _attempt in range(200):
            slicer.app.processEvents()
            if told:
                break
        self.assertEqual(told, [True])

    def test_masksReturnVoxelByVoxel(self) -> None:
        """A labelmap becomes segments and the same labelmap again, on the grid of the volume."""
        from PASTAAidGui.Masks import Masks

        from pasta.labels import label_named

        volume = makeVolume()
        values = np.zeros(SHAPE_KJI, np.uint8)
        values[2:18, 4:30, 4:40] = label_named("liver").value
        values[6:10, 8:14, 8:16] = label_named("liver_tumor").value
        values[12:15, 20:25, 28:35] = label_named("liver_tumor").value
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "in.nii.gz", Path(folder) / "out.nii.gz"
            labelmap = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
            slicer.util.updateVolumeFromArray(labelmap, values)
            labelmap.CopyOrientation(volume)
            self.assertTrue(slicer.util.saveNode(labelmap, str(source)))
            masks = Masks()
            node = masks.fromLabelmap(source, volume, None)
            lesions = masks.lesions(node)
            self.assertEqual([lesion.voxels for lesion in lesions], [4 * 6 * 8, 3 * 5 * 7])
            flat = masks.toLabelmap(node, volume, target)
            self.assertFalse(flat.warnings)
            back = slicer.util.loadLabelVolume(str(target))
            np.testing.assert_array_equal(slicer.util.arrayFromVolume(back), values)
            for axis in range(3):
                self.assertAlmostEqual(back.GetOrigin()[axis], volume.GetOrigin()[axis], places=3)
                self.assertAlmostEqual(back.GetSpacing()[axis], volume.GetSpacing()[axis], places=4)

    def test_reportTakesAReadersLesion(self) -> None:
        """The light core works in Slicer's Python: a report is filled, written and read again."""
        from pasta.report.attributes import attribute_named
        from pasta.report.reader import ReaderReport

        report = ReaderReport.empty()
        lesion = report.add_lesion("liver_tumor", (1.0, 2.0, 3.0))
        option = attribute_named("shape").options[0]
        report.set_value(lesion.number, "shape", option)
        again = ReaderReport.from_document(report.to_document())
        self.assertEqual(again.lesions[0].entries["shape"].value, option)
        self.assertTrue(again.text())

    def test_clockCountsAndTheLogIsWhole(self) -> None:
        """A reading from display to submission leaves a log whose chain holds."""
        from pasta.study import EventLog, ReadingClock, verify

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "events.jsonl"
            log = EventLog(path)
            clock = ReadingClock(log)
            clock.case_requested("case-1")
            clock.load_start()
            clock.displayed()
            clock.pause("self-test")
            clock.resume()
            timing = clock.complete()
            log.close()
            self.assertGreaterEqual(timing.wall_seconds, timing.reading_seconds)
            verify(path)

    def test_serverAnswers(self) -> None:
        """The server is reached, lists its cases, and its first CT arrives and loads."""
        if not os.environ.get("PASTA_SERVER"):
            self.skipTest("PASTA_SERVER names no server")
        from PASTAAidLib.cases import Cache
        from PASTAAidLib.connection import Connection
        from PASTAAidLib.settings import Settings

        with tempfile.TemporaryDirectory() as folder:
            values = {"url": os.environ["PASTA_SERVER"], "reader": "selftest"}
            connection = Connection(Settings.from_values(values, Path(folder)))
            check = connection.check()
            self.assertTrue(check.ok, f"{check.sentence} {check.mend}")
            cases = connection.worklist()
            self.assertTrue(cases, "the server has no cases")
            path = connection.fetch_image(cases[0].id, Cache(Path(folder) / "cache", 2**32))
            volume = slicer.util.loadVolume(str(path))
            self.assertGreater(min(volume.GetImageData().GetDimensions()), 1)
