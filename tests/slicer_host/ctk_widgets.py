"""Stand-ins for the CTK widgets that Slicer modules use."""

import types
from typing import Any, ClassVar

from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Property, Signal

from .pythonqt import QT

WIDGETS: dict[str, type] = {}  # class name -> class, for the loader of .ui files


def widget(cls: type) -> type:
    """Register a class under its name, for .ui files."""
    WIDGETS[cls.__name__] = cls
    return cls


def stored(
    name: str, kind: Any, default: Any = None, notify: str = "", after: str = ""
) -> tuple[Any, Any]:
    """Make a Qt property that keeps a value, and its setter.

    Args:
        name: of the property.
        kind: Qt's type of it.
        default: its first value.
        notify: a signal that is emitted with the new value when it changed.
        after: a method that is called after each set.
    """
    key = "_stored_" + name

    def get(self: Any) -> Any:
        return self.__dict__.get(key, default)

    def put(self: Any, value: Any) -> None:
        old = get(self)
        self.__dict__[key] = value
        if after:
            getattr(self, after)()
        if notify and old != value:
            getattr(self, notify).emit(value)

    return Property(kind, get, put), put


def parent_in(args: tuple[Any, ...]) -> list[QtWidgets.QWidget]:
    """The parent among constructor arguments, as a list to be unpacked."""
    return [each for each in args if isinstance(each, QtWidgets.QWidget)]


def _row(owner: QtWidgets.QWidget) -> QtWidgets.QHBoxLayout:
    row = QtWidgets.QHBoxLayout(owner)
    row.setContentsMargins(0, 0, 0, 0)
    return row


# ------------------------------------------------------------------------------------ containers
@widget
class ctkCollapsibleButton(QtWidgets.QAbstractButton):
    """A title bar over its content; a click on the bar folds it."""

    BAR = 24
    contentsCollapsed = Signal(bool)

    def __init__(self, *args):
        super().__init__(*parent_in(args))
        self._collapsed = False
        self.setCheckable(True)
        self.setChecked(True)
        self.setContentsMargins(0, self.BAR, 0, 0)
        if args and isinstance(args[0], str):
            self.setText(args[0])
        self.toggled.connect(lambda on: self.setCollapsed(not on))

    def setCollapsed(self, collapsed):
        collapsed = bool(collapsed)
        if collapsed == self._collapsed:
            return
        self._collapsed = collapsed
        for child in self.children():
            if isinstance(child, QtWidgets.QWidget):
                child.setVisible(not collapsed)
        self.setMaximumHeight(self.BAR + 2 if collapsed else 16777215)
        self.setChecked(not collapsed)
        self.contentsCollapsed.emit(collapsed)
        self.updateGeometry()
        self.update()

    collapsed = Property(bool, lambda self: self._collapsed, setCollapsed)
    flat = stored("flat", bool, False)[0]
    contentsFrameShape = stored("contentsFrameShape", int, 0)[0]
    collapsedHeight = stored("collapsedHeight", int, 14)[0]

    def hitButton(self, position):
        return position.y() < self.BAR

    def sizeHint(self):
        layout = self.layout()
        return (
            layout.totalSizeHint()
            if layout and not self._collapsed
            else QtCore.QSize(120, self.BAR + 2)
        )

    def minimumSizeHint(self):
        layout = self.layout()
        return (
            layout.totalMinimumSize()
            if layout and not self._collapsed
            else QtCore.QSize(60, self.BAR + 2)
        )

    def paintEvent(self, event):
        painter = QtGui.QPainter(self)
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        option.rect = QtCore.QRect(0, 0, self.width, self.BAR - 2)
        option.text = ("\u25b8 " if self._collapsed else "\u25be ") + self.text
        self.style().drawControl(QtWidgets.QStyle.CE_PushButton, option, painter, self)
        painter.end()


@widget
class ctkCollapsibleGroupBox(QtWidgets.QGroupBox):
    """A group box whose check mark shows or hides its content."""

    def __init__(self, *args):
        super().__init__(*args)
        self.setCheckable(True)
        self.toggled.connect(self._show)

    def _show(self, shown):
        for child in self.children():
            if isinstance(child, QtWidgets.QWidget):
                child.setVisible(shown)

    def setCollapsed(self, collapsed):
        self.setChecked(not collapsed)

    collapsed = Property(bool, lambda self: not self.isChecked(), setCollapsed)


@widget
class ctkExpandableWidget(QtWidgets.QFrame):
    """A frame that the user may make larger."""


# --------------------------------------------------------------------------------- small widgets
@widget
class ctkComboBox(QtWidgets.QComboBox):
    """A combo box with a text for "nothing chosen"."""

    defaultText = Property(
        str, lambda self: self.placeholderText, lambda self, text: self.setPlaceholderText(text)
    )
    forceDefault = stored("forceDefault", bool, False)[0]
    elideMode = stored("elideMode", int, 0)[0]


@widget
class ctkCheckBox(QtWidgets.QCheckBox):
    """A check box."""


@widget
class ctkPushButton(QtWidgets.QPushButton):
    """A button."""


@widget
class ctkMenuButton(QtWidgets.QPushButton):
    """A button with a menu."""


@widget
class ctkCheckablePushButton(QtWidgets.QPushButton):
    """A button with a check box in it."""

    checkBoxControlsButton = stored("checkBoxControlsButton", bool, True)[0]


@widget
class ctkSearchBox(QtWidgets.QLineEdit):
    """A line to type a search into."""

    showSearchIcon = stored("showSearchIcon", bool, False)[0]


@widget
class ctkDoubleSpinBox(QtWidgets.QDoubleSpinBox):
    """A number with a unit."""


@widget
class ctkFittedTextBrowser(QtWidgets.QTextBrowser):
    """Text with a folded part."""

    collapsed = stored("collapsed", bool, True)[0]
    collapsibleText = stored("collapsibleText", str, "", after="_show")[0]

    def setCollapsibleText(self, text):
        self.collapsibleText = text

    def _show(self):
        self.setHtml(self.collapsibleText)


@widget
class ctkColorPickerButton(QtWidgets.QPushButton):
    """A button that shows and asks for a colour."""

    colorChanged = Signal(QtGui.QColor)
    color, setColor = stored("color", QtGui.QColor, QtGui.QColor(), notify="colorChanged")


@widget
class ctkSliderWidget(QtWidgets.QWidget):
    """A slider and a spin box of one number."""

    STEPS = 1000
    valueChanged = Signal(float)
    valueIsChanging = Signal(float)
    __pq_signals__: ClassVar = {
        "valueChanged(double)": "valueChanged",
        "valueIsChanging(double)": "valueIsChanging",
    }

    def __init__(self, *args):
        super().__init__(*parent_in(args))
        self._slider = QtWidgets.QSlider(QtCore.Qt.Horizontal)
        self._slider.setMaximum(self.STEPS)
        self._box = QtWidgets.QDoubleSpinBox()
        self._box.setMaximum(99)
        row = _row(self)
        row.addWidget(self._slider)
        row.addWidget(self._box)
        self._following = False
        self._box.valueChanged.connect(self._moved)
        self._slider.valueChanged.connect(self._dragged)

    def slider(self):
        return self._slider

    def spinBox(self):
        return self._box

    def _moved(self, value):
        span = self._box.maximum - self._box.minimum
        self._following = True
        self._slider.setValue(round(self.STEPS * (value - self._box.minimum) / span) if span else 0)
        self._following = False
        self.valueChanged.emit(value)

    def _dragged(self, step):
        if not self._following:
            span = self._box.maximum - self._box.minimum
            self._box.setValue(self._box.minimum + step / self.STEPS * span)

    def setRange(self, low, high):
        self._box.setRange(low, high)
        self._moved(self._box.value)

    def setValue(self, value):
        self._box.setValue(value)

    def setMinimum(self, value):
        self._box.setMinimum(value)

    def setMaximum(self, value):
        self._box.setMaximum(value)

    def setSingleStep(self, value):
        self._box.setSingleStep(value)

    def setDecimals(self, value):
        self._box.setDecimals(value)

    def setSuffix(self, value):
        self._box.setSuffix(value)

    def setSpinBoxVisible(self, value):
        self._box.setVisible(value)

    value = Property(float, lambda self: self._box.value, setValue)
    minimum = Property(float, lambda self: self._box.minimum, setMinimum)
    maximum = Property(float, lambda self: self._box.maximum, setMaximum)
    singleStep = Property(float, lambda self: self._box.singleStep, setSingleStep)
    decimals = Property(int, lambda self: self._box.decimals, setDecimals)
    suffix = Property(str, lambda self: self._box.suffix, setSuffix)
    spinBoxVisible = Property(bool, lambda self: not self._box.isHidden(), setSpinBoxVisible)
    pageStep = stored("pageStep", float, 10.0)[0]
    tracking = stored("tracking", bool, True)[0]
    tickInterval = stored("tickInterval", float, 0.0)[0]
    orientation = stored("orientation", int, 1)[0]


@widget
class ctkDoubleSlider(ctkSliderWidget):
    """A slider of one number, without the spin box."""

    def __init__(self, *args):
        super().__init__(*args)
        self._box.hide()


@widget
class ctkRangeWidget(QtWidgets.QWidget):
    """Two numbers, low and high."""

    valuesChanged = Signal(float, float)
    __pq_signals__: ClassVar = {"valuesChanged(double,double)": "valuesChanged"}

    def __init__(self, *args):
        super().__init__(*parent_in(args))
        self._boxes = QtWidgets.QDoubleSpinBox(), QtWidgets.QDoubleSpinBox()
        row = _row(self)
        for box in self._boxes:
            row.addWidget(box)
            box.valueChanged.connect(self._emit)
        self.setRange(0.0, 99.0)
        self.setValues(0.0, 99.0)

    def _emit(self, *_):
        self.valuesChanged.emit(*(box.value for box in self._boxes))

    def setValues(self, low, high):
        for box, value in zip(self._boxes, (low, high), strict=True):
            box.setValue(value)

    def setRange(self, low, high):
        for box in self._boxes:
            box.setRange(low, high)

    minimumValue = Property(
        float, lambda self: self._boxes[0].value, lambda self, v: self._boxes[0].setValue(v)
    )
    maximumValue = Property(
        float, lambda self: self._boxes[1].value, lambda self, v: self._boxes[1].setValue(v)
    )
    minimum = Property(
        float, lambda self: self._boxes[0].minimum, lambda self, v: self.setRange(v, self.maximum)
    )
    maximum = Property(
        float, lambda self: self._boxes[0].maximum, lambda self, v: self.setRange(self.minimum, v)
    )
    decimals = stored("decimals", int, 2)[0]
    singleStep = stored("singleStep", float, 1.0)[0]


@widget
class ctkDoubleRangeSlider(ctkRangeWidget):
    """Two numbers on one slider."""


@widget
class ctkPathLineEdit(QtWidgets.QLineEdit):
    """A path to type."""

    currentPathChanged = Signal(str)
    directoryChanged = Signal(str)
    __pq_signals__: ClassVar = {
        "currentPathChanged(QString)": "currentPathChanged",
        "directoryChanged(QString)": "directoryChanged",
    }
    Dirs, Files, Drives, NoDot, NoDotDot = 0x1, 0x2, 0x4, 0x2000, 0x4000
    Readable, Writable, Executable = 0x10, 0x20, 0x40

    def __init__(self, *args):
        super().__init__(*parent_in(args))
        self.textChanged.connect(self.currentPathChanged.emit)
        self.textChanged.connect(self.directoryChanged.emit)

    def setCurrentPath(self, path):
        self.setText(str(path))

    def addCurrentPathToHistory(self):
        """CTK remembers the path in its settings; nothing to do for a test."""

    currentPath = Property(str, lambda self: self.text, setCurrentPath)
    directory = Property(str, lambda self: self.text, setCurrentPath)
    filters = stored("filters", int, 0)[0]
    nameFilters = stored("nameFilters", "QStringList", [])[0]
    settingKey = stored("settingKey", str, "")[0]


@widget
class ctkDirectoryButton(ctkPathLineEdit):
    """A folder to choose."""


# --------------------------------------------------------------------------- dialogs and settings
class ctkMessageBox(QtWidgets.QMessageBox):
    """A question that may be answered once and for all."""

    dontShowAgainVisible, setDontShowAgainVisible = stored("dontShowAgainVisible", bool, False)
    dontShowAgain, setDontShowAgain = stored("dontShowAgain", bool, False)
    dontShowAgainSettingsKey, setDontShowAgainSettingsKey = stored(
        "dontShowAgainSettingsKey", str, ""
    )


class ctkBooleanMapper(QtCore.QObject):
    """A bool property of a widget as an int, as settings store it."""

    valueAsIntChanged = Signal(int)
    valueChanged = Signal(bool)

    def __init__(self, target, property_name, signal):
        super().__init__(target)
        self._target, self._property = target, property_name
        target.connect(signal.lstrip("2"), self._changed)

    def _changed(self, value):
        self.valueAsIntChanged.emit(int(value))
        self.valueChanged.emit(bool(value))

    def _get(self):
        return bool(self._target.property(self._property))

    def _set(self, value):
        self._target.setProperty(self._property, bool(int(value)))

    valueAsInt = Property(int, lambda self: int(self._get()), _set)
    value = Property(bool, _get, _set)


class ctkSettingsPanel(QtWidgets.QWidget):
    """Widgets of which each property is kept in the settings under a key."""

    def __init__(self, *args):
        super().__init__(*parent_in(args))
        self._registered = {}

    def registerProperty(
        self, key, widget, property_name, signal, label="", options=0, settings=None
    ):
        """Load the stored value, or store the widget's; store every later change."""
        store = settings or QtCore.QSettings()
        self._registered[key] = (widget, property_name)
        now = getattr(widget, property_name)
        if store.contains(key):
            # an .ini file gives strings back
            value = store.value(key)
            setattr(widget, property_name, type(now)(value) if now is not None else value)
        else:
            store.setValue(key, now)
        widget.connect(
            signal.lstrip("2"),
            lambda *_: QtCore.QSettings().setValue(key, getattr(widget, property_name)),
        )


class ctkWidgetsUtils:
    """Helpers of CTK."""

    @staticmethod
    def grabWidget(widget, rectangle=None):
        return widget.grab().toImage()


def module() -> types.ModuleType:
    """Return what Slicer calls `ctk`."""
    made = types.ModuleType("ctk")
    for name, value in globals().items():
        if name.startswith("ctk"):
            setattr(made, name, value)
    return made


assert QT is not None  # PySide6 must have been changed before these classes are used
