"""A reader at a desk: the real server of this repository, the module in the headless host."""

import importlib.util
import os
import sys
import threading
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
MODULE = ROOT / "slicer_extension" / "PASTAAid" / "PASTAAid.py"
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")


def serving():
    """Load tests/apps/serving.py, which starts real servers."""
    if "serving" not in sys.modules:
        path = ROOT / "tests" / "apps" / "serving.py"
        spec = importlib.util.spec_from_file_location("serving", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules["serving"] = module
        spec.loader.exec_module(module)
    return sys.modules["serving"]


def studying():
    """Load tests/apps/studying.py, which makes small studies."""
    if "studying" not in sys.modules:
        path = ROOT / "tests" / "apps" / "studying.py"
        spec = importlib.util.spec_from_file_location("studying", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules["studying"] = module
        spec.loader.exec_module(module)
    return sys.modules["studying"]


def save_models(folder):
    """Write models with known answers: dense bone is a lesion, three folds of random screening.

    The shipped network finds few lesions in the CTs at hand; a test needs some to work on.
    """
    import torch

    from pasta.labels import LABELS, label_named
    from pasta.networks.checkpoint import save_model
    from pasta.networks.unet import PastaClassifier
    from pasta.report import head_options
    from pasta.spec import ModelSpec, Segmental, ZScore

    network = serving().threshold_network()
    last, value = network.seg_outputs[-1].weight, label_named("bone_metastasis").value
    with torch.no_grad():
        last[value, 0], last[serving().LIVER, 0] = last[serving().LIVER, 0].clone(), 0
    common = {"version": "1", "width": 8, "patch_shape": (64, 32, 32), "spacing_mm": (3.0,) * 3}
    spec = ModelSpec(
        name="dense-bone",
        task="segmentation",
        title="what is denser than 1000 HU",
        intensity=ZScore((1000.0, 3000.0), 1000.0, 500.0),
        channels=("background", *(label.name for label in LABELS)),
        **common,
    )
    save_model([network], spec, folder / "segmentation")
    torch.manual_seed(0)
    spec = ModelSpec(
        name="random-screening",
        task="screening",
        title="random",
        intensity=Segmental(),
        organs=("liver", "kidney", "bone"),
        **common,
    )
    save_model([PastaClassifier(2, width=8) for _ in range(3)], spec, folder / "screening")
    spec = ModelSpec(
        name="random-attributes",
        task="attributes",
        title="random",
        intensity=Segmental(),
        attributes=head_options(),
        **common,
    )
    save_model([PastaClassifier(spec.num_outputs, width=8)], spec, folder / "attributes")
    return folder


class Desk:
    """The module as a reader has it before them.

    Args:
        folder: of settings, drafts and logs; given again after a crash.
        url: of the server.
        settings: of the module, by name.
        size: of the main window.
    """

    def __init__(self, folder: Path, url: str, size=(1920, 1080), **settings) -> None:
        from tests import slicer_host

        self.host = slicer_host
        slicer_host.boot(size=size)
        import qt

        store = qt.QSettings()
        store.setValue("PASTAAid/folder", str(folder))
        for name, value in {"url": url, "reader": "R1", **settings}.items():
            store.setValue(f"PASTAAid/{name}", value)
        self.module, self.widget = slicer_host.load_module(str(MODULE))
        self.flow = self.widget.flow
        self.interactions = 0

    def spin(self, seconds: float = 0.05) -> None:
        """Let the event loop run."""
        self.host.spin(seconds)

    def until(self, condition, seconds: float = 60.0, what: str = ""):
        """Let the event loop run until something holds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return
            self.host.spin(0.02)
        status = self.flow.status
        message = f"{what or 'it'} did not come: {status.text} {status.mend} {self.faults()}"
        raise AssertionError(message)

    def faults(self):
        """List errors of slots and of the host."""
        return ["".join(traceback.format_exception(*error)) for error in self.host.HOST_ERRORS] + [
            f"{kind}: {names}" for kind, names in self.host.REPORT.items() if names
        ]

    def click(self, button) -> None:
        """Press a button as a person does: only if it is there and enabled."""
        assert button.enabled, button.text
        self.interactions += 1
        button.click()

    def press(self, sequence: str) -> None:
        """Press a key of the module."""
        import qt
        import slicer

        wanted = qt.QKeySequence(sequence)
        found = [
            shortcut
            for shortcut in slicer.util.mainWindow().findChildren(qt.QShortcut)
            if shortcut.key == wanted and shortcut.enabled
        ]
        assert len(found) == 1, (sequence, len(found))
        self.interactions += 1
        found[0].activated.emit()

    def choose(self, combo, text: str) -> None:
        """Choose an entry of a dropdown as a person does."""
        index = combo.findText(text)
        assert index >= 0, text
        assert combo.enabled, combo.objectName
        self.interactions += 1
        combo.setCurrentIndex(index)
        combo.activated.emit(index)

    def connect(self) -> None:
        """Press Connect and wait for the worklist."""
        self.click(self.widget.cases.ui.connectButton)
        self.until(lambda: self.flow.connected, what="the connection")

    def open(self, case: str) -> None:
        """Open a case and wait until it is displayed."""
        self.flow.cases.open(case)
        self.shown(case)

    def shown(self, case: str) -> None:
        """Wait until a case is displayed."""
        self.until(
            lambda: (
                self.flow.reading is not None
                and self.flow.reading.caseId == case
                and self.flow.reading.displayed
            ),
            what=f"case {case}",
        )

    def idle(self, seconds: float = 120.0) -> None:
        """Wait until the AI and all other background work is over."""
        self.until(
            lambda: not self.flow.assistant.running and not self.flow.progresses,
            seconds,
            "the end of the work",
        )

    def close(self) -> None:
        """End in order."""
        self.widget.cleanup()


def log_in(desk, study: str, code: str) -> None:
    """Log in to a study as a reader does."""
    ui = desk.widget.study.ui
    desk.widget.goTo("Study")
    desk.click(ui.findButton)
    desk.until(lambda: desk.flow.study.listed, 30, "the studies")
    ui.studyCombo.setCurrentIndex(ui.studyCombo.findData(study))
    ui.codeEdit.text = code
    desk.click(ui.loginButton)
    assert ui.codeEdit.text == ""
    desk.until(lambda: desk.flow.study.active, 30, "the session")


def on_screen(desk, former: str = "", seconds: float = 60.0) -> str:
    """Wait for a case of the study on the screen; return its code."""
    desk.until(
        lambda: (
            desk.flow.reading is not None
            and desk.flow.reading.displayed
            and desk.flow.reading.caseId != former
        ),
        seconds,
        "a case",
    )
    return desk.flow.reading.caseId


def end_session(desk) -> Path:
    """End the session; return its log, all of which the server has."""
    log = desk.flow.log.path
    desk.click(desk.widget.study.ui.endButton)
    assert not desk.flow.study.active
    desk.until(lambda: not desk.flow.background.busy("studyend"), 30, "the end")
    assert desk.flow.status.kind == "good", desk.flow.status
    return log


class Watchdog:
    """Notes what the GUI's thread does whenever it does not answer for more than `limit` seconds."""

    def __init__(self, limit: float = 0.1) -> None:
        self.limit = limit
        self.longest = 0.0
        self.stacks: list[str] = []
        self._beat = time.monotonic()
        self._end = threading.Event()
        self._main = threading.get_ident()

    def __enter__(self):
        import qt

        self._timer = qt.QTimer()
        self._timer.setInterval(5)
        self._timer.connect("timeout()", self._tick)
        self._timer.start()
        self._tick()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_error) -> None:
        self._end.set()
        self._timer.stop()
        self._thread.join()

    def _tick(self) -> None:
        self._beat = time.monotonic()

    def _watch(self) -> None:
        while not self._end.wait(0.02):
            late = time.monotonic() - self._beat
            self.longest = max(self.longest, late)
            if late > self.limit:
                frame = sys._current_frames().get(self._main)
                self.stacks.append("".join(traceback.format_stack(frame)))

    def network(self) -> list[str]:
        """List the stacks in which the GUI's thread waited for the network or the AI."""
        words = ("requests", "urllib3", "socket.py", "ssl.py", "client.py", "connection.py")
        return [stack for stack in self.stacks if any(word in stack for word in words)]
