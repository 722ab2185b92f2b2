"""Top-level modules of Slicer that module code imports by name."""

import sys
import types

import numpy as np
import slicer

_WIDGET_MODULES = (
    "qSlicerSegmentationsModuleWidgetsPythonQt",
    "qSlicerMarkupsModuleWidgetsPythonQt",
    "qMRMLWidgetsPythonQt",
)
_VTK_MODULES = ("MRMLCore", "MRMLLogic", "vtkSegmentationCore", "vtkITK", "vtkTeem")
_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def pull_volume(node):
    """A volume node as a SimpleITK image; ITK's space is LPS."""
    import SimpleITK as sitk

    node = slicer.util.getNode(node) if isinstance(node, str) else node
    image = sitk.GetImageFromArray(slicer.util.arrayFromVolume(node))
    matrix = slicer.util.arrayFromVTKMatrix(_ijk_to_ras(node))
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((_TO_LPS @ (matrix[:3, :3] / spacing)).ravel().tolist())
    image.SetOrigin((_TO_LPS @ matrix[:3, 3]).tolist())
    return image


def push_volume(image, targetNode=None, name=None, className="vtkMRMLScalarVolumeNode"):
    """A SimpleITK image as a volume node."""
    import SimpleITK as sitk

    node = targetNode or slicer.mrmlScene.AddNewNodeByClass(className, name or "")
    slicer.util.updateVolumeFromArray(node, sitk.GetArrayFromImage(image))
    matrix = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    matrix[:3, :3] = _TO_LPS @ direction @ np.diag(image.GetSpacing())
    matrix[:3, 3] = _TO_LPS @ np.array(image.GetOrigin())
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
    node.CreateDefaultDisplayNodes()
    return node


def _ijk_to_ras(node):
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return matrix


def _module(name, **content):
    made = types.ModuleType(name)
    vars(made).update(content)
    sys.modules[name] = made


def install():
    """Make the names importable."""
    from . import mrml_widgets, segment_editor

    widgets = {
        name: value
        for source in (mrml_widgets, segment_editor)
        for name, value in vars(source).items()
        if name.startswith(("qMRML", "qSlicer"))
    }
    for name in _WIDGET_MODULES:
        _module(name, **widgets)
    for name in _VTK_MODULES:
        try:
            found = __import__(f"slicer_core.{name}", fromlist=["_"])
        except ImportError:
            continue
        sys.modules.setdefault(name, found)
        sys.modules.setdefault(f"{name}Python", found)
    _module(
        "mrml",
        **{name: value for name, value in vars(slicer).items() if name.startswith("vtkMRML")},
    )
    _module("sitkUtils", PullVolumeFromSlicer=pull_volume, PushVolumeToSlicer=push_volume)
