"""Keys that Slicer has taken; imports nothing, so that plain tests may read it too.

From Slicer's sources: qSlicerMainWindow, qSlicerAppMainWindow, qSlicerModuleSelectorToolBar,
qMRMLSegmentEditorWidget, qMRMLMarkupsToolBar, qMRMLSequenceBrowserPlayWidget, vtkMRMLSliceIntersectionWidget,
vtkMRMLCameraWidget and the segment editor's effects.
"""

_APPLICATION = (
    "Ctrl+O Ctrl+S Ctrl+W Ctrl+Z Ctrl+Y Ctrl+X Ctrl+C Ctrl+V Ctrl+H Ctrl+F Ctrl+Left Ctrl+Right Alt+Left "
    "Alt+Right Ctrl+0 Ctrl+1 Ctrl+2 Ctrl+3 Ctrl+4 Ctrl+5 Ctrl+6 Ctrl+` Ctrl+Q Ctrl+Shift+Z Alt+F Alt+E "
    "Alt+V Alt+H"
)
_SEGMENT_EDITOR = (
    "1 2 3 4 5 6 7 8 9 0 Shift+1 Shift+2 Shift+3 Shift+4 Shift+5 Shift+6 Shift+7 Shift+8 Shift+9 Shift+0 "
    "Esc Space Z Y I Q W , . / * < > A S D X Return Enter Backspace Del"
)
_VIEWS = (
    "Left Right Up Down Shift+Left Shift+Right Shift+Up Shift+Down F B G T V Shift+V R [ ] { } Ctrl+B + - "
    "Home End PgDown Ins Shift+Home Shift+End Shift+PgDown"
)
_TOOLBARS = (
    "Ctrl+Shift+A Ctrl+Shift+T Ctrl+Shift+Space Ctrl+Shift+Down Ctrl+Shift+Left Ctrl+Shift+Right"
)

RESERVED_KEYS: dict[str, str] = {
    key: owner
    for owner, keys in (
        ("the markups and sequences toolbars", _TOOLBARS),
        ("the slice and 3D views", _VIEWS),
        ("the segment editor", _SEGMENT_EDITOR),
        ("the application", _APPLICATION),
    )
    for key in keys.split()
}
