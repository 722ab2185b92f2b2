"""Cover the images while the reader pauses, and give them back as they were."""

import slicer


class Cover:
    """Takes the volumes and masks out of all views and remembers what was there."""

    def __init__(self) -> None:
        self._layers: list[tuple[str, str | None, str | None]] = []
        self._masks: list[str] = []

    def on(self) -> None:
        """Show nothing."""
        if self._layers:
            return
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            self._layers.append(
                (
                    composite.GetID(),
                    composite.GetBackgroundVolumeID(),
                    composite.GetForegroundVolumeID(),
                )
            )
            composite.SetBackgroundVolumeID(None)
            composite.SetForegroundVolumeID(None)
        for display in slicer.util.getNodesByClass("vtkMRMLSegmentationDisplayNode"):
            if display.GetVisibility():
                self._masks.append(display.GetID())
                display.SetVisibility(False)

    def off(self) -> None:
        """Show again what was shown; nodes that are gone stay gone."""
        scene = slicer.mrmlScene
        for compositeId, background, foreground in self._layers:
            composite = scene.GetNodeByID(compositeId)
            if composite is None:
                continue
            if background and scene.GetNodeByID(background):
                composite.SetBackgroundVolumeID(background)
            if foreground and scene.GetNodeByID(foreground):
                composite.SetForegroundVolumeID(foreground)
        for displayId in self._masks:
            display = scene.GetNodeByID(displayId)
            if display is not None:
                display.SetVisibility(True)
        self._layers.clear()
        self._masks.clear()
