"""The part of qSlicerCoreIOManager that `slicer.util.load*` and `save*` call."""

from pathlib import Path

import slicer

_TYPES = {
    ".seg.nrrd": "SegmentationFile",
    ".mrk.json": "MarkupsFile",
    ".mrml": "SceneFile",
    ".mrb": "SceneFile",
    ".csv": "TableFile",
    ".tsv": "TableFile",
    ".txt": "TextFile",
    ".json": "TextFile",
    ".stl": "ModelFile",
    ".vtk": "ModelFile",
    ".vtp": "ModelFile",
    ".ctbl": "ColorTableFile",
}
_LABELMAP, _CENTRED, _SINGLE_FILE = 1, 2, 4  # options of vtkSlicerVolumesLogic


def _stem(path):
    return Path(path).name.split(".")[0]


class CoreIOManager:
    """Reads and writes through the genuine module logics and storage nodes."""

    def fileType(self, path):
        return next(
            (kind for end, kind in _TYPES.items() if path.lower().endswith(end)), "VolumeFile"
        )

    def fileWriterFileType(self, node):
        return node.GetClassName()

    def loadNodes(self, kind, parameters, collection, messages=None):
        if not Path(parameters["fileName"]).exists():
            return False
        if kind == "SceneFile":
            return self._load_scene(parameters)
        node = getattr(self, f"_load_{kind.removesuffix('File').lower()}")(parameters)
        if node:
            collection.AddItem(node)
        return node is not None

    def _load_scene(self, parameters):
        slicer.mrmlScene.SetURL(parameters["fileName"])
        clear = parameters.get("clear")
        return bool(slicer.mrmlScene.Connect() if clear else slicer.mrmlScene.Import())

    def _load_volume(self, parameters):
        path, labelmap = parameters["fileName"], bool(parameters.get("labelmap"))
        options = _LABELMAP * labelmap | _CENTRED * bool(parameters.get("center"))
        options |= _SINGLE_FILE * bool(parameters.get("singleFile", True))
        logic = slicer.modules.volumes.logic()
        node = logic.AddArchetypeVolume(path, parameters.get("name") or _stem(path), options)
        if node and not labelmap and parameters.get("show", True):
            application = slicer.app.applicationLogic()
            application.GetSelectionNode().SetActiveVolumeID(node.GetID())
            application.PropagateVolumeSelection()
        return node

    def _load_segmentation(self, parameters):
        path, logic = parameters["fileName"], slicer.modules.segmentations.logic()
        if path.endswith(".seg.nrrd"):
            return logic.LoadSegmentationFromFile(path, False, parameters.get("name"))
        labelmap = slicer.modules.volumes.logic().AddArchetypeVolume(
            path, "labels", _LABELMAP | _SINGLE_FILE
        )
        if labelmap is None:
            return None
        node = slicer.mrmlScene.AddNewNodeByClass(
            "vtkMRMLSegmentationNode", parameters.get("name") or _stem(path)
        )
        node.CreateDefaultDisplayNodes()
        node.SetReferenceImageGeometryParameterFromVolumeNode(labelmap)
        logic.ImportLabelmapToSegmentationNode(labelmap, node)
        slicer.mrmlScene.RemoveNode(labelmap)
        return node

    def _load_markups(self, parameters):
        logic = slicer.modules.markups.logic()
        node_id = logic.LoadMarkups(parameters["fileName"], parameters.get("name") or "", None)
        return slicer.mrmlScene.GetNodeByID(node_id) if node_id else None

    def _load_model(self, parameters):
        return slicer.modules.models.logic().AddModel(parameters["fileName"])

    def _load_table(self, parameters):
        return slicer.modules.tables.logic().AddTable(
            parameters["fileName"], parameters.get("name"), True
        )

    def _load_text(self, parameters):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", _stem(parameters["fileName"]))
        node.SetText(Path(parameters["fileName"]).read_text(encoding="utf-8"))
        return node

    def _load_colortable(self, parameters):
        return slicer.modules.colors.logic().LoadColorFile(parameters["fileName"])

    def saveNodes(self, kind, parameters, messages=None):
        path = parameters["fileName"]
        if kind == "SceneFile":
            slicer.mrmlScene.SetURL(path)
            if path.endswith(".mrml"):
                return bool(slicer.mrmlScene.Commit(path))
            return bool(
                slicer.app.applicationLogic().SaveSceneToSlicerDataBundleDirectory(path, None)
            )
        node = slicer.mrmlScene.GetNodeByID(parameters["nodeID"])
        if node.GetStorageNode() is None:
            node.AddDefaultStorageNode()
        storage = node.GetStorageNode()
        storage.SetFileName(path)
        storage.SetUseCompression(
            int(parameters.get("useCompression", storage.GetUseCompression()))
        )
        return bool(storage.WriteData(node))
