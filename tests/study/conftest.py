"""A small study that scripted readers read, with clocks that the script sets."""

import gzip
import json
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import nibabel as nib
import numpy as np
import pytest

from pasta.geometry import Volume
from pasta.labels import label_named
from pasta.report.attributes import BY_NAME, PREDICTED
from pasta.report.reader import ReaderReport
from pasta.store import Store
from pasta.study.archive import SERVER_LOG, Archive
from pasta.study.cases import CASES_FILE
from pasta.study.clock import ReadingClock
from pasta.study.events import EventLog
from pasta.study.export import references_in
from pasta.study.folder import StudyFolder, make_key, write_allocation
from pasta.study.lock import lock
from pasta.study.protocol import PROTOCOL_FILE

SECRET = "smith-john-19500101"  # in every image id, patient and text: must never come out
PROTOCOL = f"""\
# asked for by Dr {SECRET}
[study]
id = "small"
title = "A small study"
seed = 11

[[readers]]
code = "J1"
level = "junior"

[[readers]]
code = "S1"
level = "senior"

[[parts]]
name = "screening"
task = "screen"
organs = ["liver"]
arms = ["solo", "assisted"]
budget_minutes = 30
training_cases = ["{SECRET}-t"]
ai = ["screening"]

[[parts.questions]]
id = "tumour"
text = "Is a tumour present?"
type = "yes_no"

[[parts.questions]]
id = "confidence"
text = "How likely?"
type = "score"

[[parts.questions]]
id = "remark"
text = "Anything \\"else\\"?"
type = "text"
required = false

[[parts]]
name = "masks"
task = "segment"
organs = ["liver"]
arms = ["solo", "assisted"]
ai = ["segmentation"]

[[parts.questions]]
id = "mask"
text = "Outline"
type = "mask"

[[parts]]
name = "reports"
task = "report"
organs = ["liver"]
arms = ["solo", "assisted"]
ai = ["report"]

[[parts.questions]]
id = "report"
text = "Describe"
type = "attributes"

[[parts]]
name = "realism"
task = "realism"
organs = ["liver"]
arms = ["solo"]
allocation = "crossed"

[[parts.questions]]
id = "real"
text = "Realistic?"
type = "likert"
min = 1
max = 5
"""
_SHAPE, _AFFINE = (8, 8, 6), np.diag([2.0, 1.0, 3.0, 1.0])
_TUMOUR = label_named("liver_tumor").value


@dataclass
class Script:
    """What the readers did, by their own clock.

    Attributes:
        study: that was read.
        seconds: of each read by (block, case code), without pauses.
        now_ns: the readers' monotonic clock.
    """

    study: StudyFolder
    seconds: dict = field(default_factory=dict)
    now_ns: int = 10**12

    def mono(self):
        return self.now_ns

    def utc(self):
        return datetime(2026, 11, 27, tzinfo=UTC) + timedelta(microseconds=self.now_ns // 1000)

    def passes(self, seconds):
        self.now_ns += int(seconds * 1e9)


def box(low, high):
    """A mask of one box of liver tumour."""
    voxels = np.zeros(_SHAPE, np.uint8)
    voxels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = _TUMOUR
    return voxels


def nifti(voxels):
    image = nib.Nifti1Image(voxels, _AFFINE)
    image.header["descrip"] = SECRET.encode()
    image.header["db_name"] = SECRET[:17].encode()
    return gzip.compress(image.to_bytes())


def write_study(folder, reference=f"{SECRET}.nii.gz", store=None):
    rows = [f"image,organ,part,positive,reference_mask,source,patient,{','.join(_REFERENCES)}"]
    rows.append(f"{SECRET}-t,liver,screening,1,,,{SECRET},,")
    rows += [f"{SECRET}-{n},liver,screening,{n % 2},,,{SECRET}{n},," for n in range(8)]
    (folder / f"{SECRET}.nii.gz").write_bytes(nifti(box((2, 2, 2), (6, 6, 4))))
    for part in ("masks", "reports"):
        rows += [
            f"{SECRET}-m{n},liver,{part},1,{reference},,,Round-like,Hypodense" for n in range(4)
        ]
    rows += [f"{SECRET}-r{n},liver,realism,,,{s},,," for n, s in enumerate(("real", "synthetic"))]
    (folder / PROTOCOL_FILE).write_text(PROTOCOL)
    (folder / CASES_FILE).write_text("\n".join(rows) + "\n")
    make_key(folder)
    write_allocation(folder)
    study = StudyFolder.open(folder)
    lock(folder, {"model": "a" * 64}, references_in(study, store) if store else None)
    return study


_REFERENCES = ("reference_shape", "reference_density")


def write_ai(study, code, organ="liver"):
    folder = study.path / "ai" / organ / code
    folder.mkdir(parents=True, exist_ok=True)
    probability = {"organs": [{"organ": organ, "probability": 0.75}]}
    (folder / "screening.json").write_text(json.dumps(probability))
    (folder / "segmentation.nii.gz").write_bytes(nifti(box((2, 2, 2), (6, 6, 5))))


def report_of(assisted):
    """Two lesions; the larger one has four attributes as in the reference's spelling."""
    report = ReaderReport.empty()
    small = report.add_lesion("liver_tumor").number
    large = report.add_lesion("liver_tumor").number
    for name in PREDICTED:
        report.set_value(small, name, BY_NAME[name].options[-1])
        report.set_value(large, name, BY_NAME[name].options[0])
    report.impression = SECRET
    report.lesion(small).volume_ml, report.lesion(large).volume_ml = 0.5, 3.0
    report.lesion(large).size_mm = (12.0, 10.5, 9.0)
    if assisted:
        for name, option in (("shape", 1), ("density", 0)):
            report.lesion(large).entries[name].suggestion = BY_NAME[name].options[option]
    return report.to_document()


def read(script):
    """Let both readers read all blocks; the last case of S1's last block is begun, never ended."""
    study = script.study
    archive = Archive(study.path)
    server = EventLog(study.logs / SERVER_LOG, study_id=study.id, session_id="server")
    for reader in study.protocol.readers:
        for block in study.allocation.of(reader.code):
            session = f"s-{block.id}"
            log = EventLog(
                study.logs / f"{session}.jsonl",
                reader=reader.code,
                study_id=study.id,
                level=reader.level,
                arm=block.arm,
                study_key=study.key,
                session_id=session,
                monotonic_ns=script.mono,
                utc=script.utc,
            )
            clock = ReadingClock(log, monotonic_ns=script.mono, utc=script.utc)
            who = {"session": session, "reader": reader.code, "block": block.id, "arm": block.arm}
            server.append("login", {**who, "machine": "m"})
            cases = [(image, True) for image in block.training]
            cases += [(image, False) for image in block.images]
            for number, (image, training) in enumerate(cases):
                last = (block.part, reader.code, number) == ("realism", "S1", len(cases) - 1)
                _case(script, archive, server, clock, block, image, training, number, last)
            seq, head = log.seq, log.head
            log.close()
            server.append("logout", {**who, "reason": "end", "head": head, "seq": seq})
    archive.keep_head(server.seq, server.head)
    server.close()


def _case(script, archive, server, clock, block, image, training, number, last):
    study, part = script.study, script.study.protocol.part(block.part)
    code, session = study.code_of(image), f"s-{block.id}"
    payload = {"session": session, "reader": block.reader, "block": block.id}
    server.append("case_assigned", {**payload, "training": training, "resumed": False}, case=code)
    if block.arm == "assisted":
        write_ai(study, code)
    clock.case_requested(image, task=part.task, organ=block.organ, position=number + 1)
    script.passes(0.25)
    clock.load_start()
    script.passes(1.5)
    clock.displayed()
    if last:
        return
    script.passes(4 + 0.125 * number)
    clock.activity()
    if number == 1:
        clock.pause(f"call from {SECRET}")
        script.passes(60)
        clock.resume()
    if part.task == "segment":
        clock.note("mask_edit", number=1, voxels_before=0, voxels_after=8)
    script.passes(2)
    if part.task == "screen":
        clock.note("decision", tumour=number % 2, confidence=10 * (number % 11), remark=SECRET)
    timing = clock.complete()
    script.seconds[block.id, code] = 7.5 + 0.125 * number
    answers, report, mask = {}, None, None
    if part.task == "screen":
        answers = {"tumour": number % 2, "confidence": 10 * (number % 11), "remark": SECRET}
    elif part.task == "realism":
        answers = {"real": 4}
    elif part.task == "report":
        report = report_of(block.arm == "assisted")
    else:
        mask = nifti(box((2, 2, 2), (6, 6, 4 if block.arm == "assisted" else 3)))
    record = {
        "block": block.id,
        "case": code,
        "session_id": session,
        "status": "complete",
        "answers": answers,
        "report": report,
        "timing": timing.document(),
        "seconds": script.seconds[block.id, code],
        "resumed": False,
        "training": training,
    }
    saved = archive.save_answer(record, json.dumps(record).encode(), mask)
    server.append(
        "answer_received",
        {
            **payload,
            "status": "complete",
            "seconds": record["seconds"],
            "version": saved.version,
            "record_sha256": saved.record_sha256,
        },
        case=code,
    )


@pytest.fixture
def small_study(tmp_path):
    """A locked study that nobody read."""
    folder = tmp_path / "study"
    folder.mkdir()
    return write_study(folder)


@pytest.fixture(scope="session")
def read_once(tmp_path_factory):
    """A study that both readers have read; nobody may change it."""
    script = Script(write_study(tmp_path_factory.mktemp("read")))
    read(script)
    return script


@pytest.fixture
def script(read_once, tmp_path):
    """A copy of it."""
    shutil.copytree(read_once.study.path, tmp_path / "study")
    return Script(StudyFolder.open(tmp_path / "study"), read_once.seconds)


@pytest.fixture
def tagged(tmp_path):
    """A study whose references are labels in a store (three of four), read; and that store."""
    (tmp_path / "images").mkdir()
    for number in range(4):
        ct = np.linspace(-1000, 200, np.prod(_SHAPE)).reshape(_SHAPE).astype(np.int16)
        nib.save(nib.Nifti1Image(ct, _AFFINE), tmp_path / "images" / f"{SECRET}-m{number}.nii.gz")
    store = Store(tmp_path / "images")
    for number in range(3):
        truth = Volume(box((2, 2, 2), (6, 6, 4)), _AFFINE)
        store.save_label(f"{SECRET}-m{number}", truth, tag="reference", reader="panel")
    (tmp_path / "study").mkdir()
    script = Script(write_study(tmp_path / "study", "reference", store))
    read(script)
    return script, store


@pytest.fixture
def secret():
    """A name that is in all that must not be exported."""
    return SECRET
