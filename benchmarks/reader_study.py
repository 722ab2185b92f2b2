"""A whole reader study by scripted readers against the real server, with kills: is anything lost, is a time wrong?

    python -m benchmarks.reader_study -o out/study                       # a miniature, half a minute
    python -m benchmarks.reader_study -o out/study --full --kills 50     # 4,320 screening reads

Readers are processes of their own that use what Slicer uses: the seat, the clock, the log and its upload of
PASTAAidLib and pasta.study. Each times its readings by a clock of its own, too, and notes what the server
acknowledged. At the end nothing acknowledged may be missing, and the exported times must be the script's.
Images are drawn by code; decisions are drawn with a known sensitivity in each arm.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import requests
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
STUDY = "simulated"
READERS = (("J1", "junior"), ("J2", "junior"), ("S1", "senior"), ("S2", "senior"))
ORGANS = ("liver", "pancreas", "kidney")
SENSITIVITY = {"solo": 0.65, "assisted": 0.92}
FALSE_POSITIVES = {"solo": 0.06, "assisted": 0.01}
LARGEST_SECONDS = 0.020  # between the script's clock and the exported time
START_SECONDS = 180
PARTS = """
[[parts]]
name = "screening"
task = "screen"
organs = {organs}
arms = ["solo", "assisted"]
budget_minutes = 600
allocation = "counterbalanced"
ai = ["screening"]
[[parts.questions]]
id = "tumour"
text = "Is a tumour present?"
type = "yes_no"
[[parts.questions]]
id = "suspicion"
text = "How sure are you?"
type = "score"
[[parts]]
name = "drawing"
task = "segment"
organs = {organs}
arms = ["solo", "assisted"]
allocation = "counterbalanced"
ai = ["segmentation"]
[[parts.questions]]
id = "lesions"
text = "Draw all lesions."
type = "mask"
[[parts]]
name = "reporting"
task = "report"
organs = {organs}
arms = ["solo", "assisted"]
allocation = "counterbalanced"
ai = ["segmentation"]
[[parts.questions]]
id = "attributes"
text = "Describe the lesions."
type = "attributes"
"""


# ------------------------------------------------------------------------------------------- the study
def draw_image(path: Path, number: int) -> None:
    """Write a small CT-like body with a ball in it."""
    grid = np.indices((20, 20, 16)) - np.array([9.5, 9.5, 7.5])[:, None, None, None]
    hu = np.where((grid[:2] ** 2).sum(axis=0) < 70, 45, -1000)
    hu[((grid - 2) ** 2).sum(axis=0) < 6 + number % 7] = 20 + number % 30
    hu = hu + np.random.default_rng(number).integers(-8, 9, hu.shape)
    nib.save(nib.Nifti1Image(hu.astype(np.int16), np.diag([-6.0, -6.0, 6.0, 1])), path)


def make_study(work: Path, organs: tuple[str, ...], tumours: int, controls: int, few: int) -> dict:
    """Draw images, plan, allocate and lock; return login codes and what each reader will answer."""
    from pasta.networks.checkpoint import find_models
    from pasta.study import case_code
    from pasta.study.folder import StudyFolder, make_key, new_codes, write_allocation
    from pasta.study.lock import lock

    images, folder = work / "images", work / "studies" / STUDY
    images.mkdir(parents=True)
    folder.mkdir(parents=True)
    readers = "".join(f'[[readers]]\ncode = "{c}"\nlevel = "{level}"\n' for c, level in READERS)
    (folder / "protocol.toml").write_text(
        f'[study]\nid = "{STUDY}"\ntitle = "Simulated"\nseed = 11\n{readers}'
        + PARTS.format(organs=json.dumps(list(organs)))
    )
    rows = [
        (f"{part}-{organ}-{number:03d}", organ, part, int(number < positive))
        for organ in organs
        for part, count, positive in (
            ("screening", tumours + controls, tumours),
            ("drawing", few, few),
            ("reporting", few, few),
        )
        for number in range(count)
    ]
    for number, (image, *_rest) in enumerate(tqdm(rows, desc="images", unit="image")):
        draw_image(images / f"{image}.nii.gz", number)
    lines = [",".join(map(str, row)) for row in rows]
    (folder / "cases.csv").write_text("\n".join(["image,organ,part,positive", *lines]) + "\n")
    make_key(folder)
    write_allocation(folder)
    codes = new_codes(folder)
    lock(folder, find_models(ROOT / "pasta" / "weights").weights_sha256)
    study = StudyFolder.open(folder)
    truth = {case_code(study.key, image): positive for image, _o, _p, positive in rows}
    (work / "truth.json").write_text(json.dumps(truth))
    reads = sum(len(block.images) for code, _ in READERS for block in study.allocation.of(code))
    return {"codes": codes, "reads": reads}


# ------------------------------------------------------------------------------------------- one reader
class Notes:
    """Lines that are on the disk before the reader goes on."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def write(self, **values) -> None:
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def patiently(work):
    """Ask until the server answers."""
    from PASTAAidLib.connection import Problem

    while True:
        try:
            return work()
        except Problem as problem:
            if problem.kind not in ("away", "timeout", "busy", "model", "version", "damaged"):
                raise
            time.sleep(0.2)


def read_all(url: str, code: str, folder: Path, seed: int) -> None:
    """Read block after block until the study is over."""
    sys.path.insert(0, str(ROOT / "slicer_extension" / "PASTAAid"))
    from PASTAAidLib.connection import Problem
    from PASTAAidLib.study import Done, LogUploader, StudyConnection, log_in, machine_session

    from pasta.study import EventLog, ReadingClock

    dice = random.Random(f"{seed} {code} {os.getpid()}")
    truth = json.loads((folder.parents[1] / "truth.json").read_text())
    notes = Notes(folder / "notes.jsonl")
    machine = machine_session(folder)
    while True:
        try:
            seat = patiently(lambda: log_in(url, STUDY, code, machine, take_over=True))
        except Problem as problem:
            if "has read all" in problem.sentence:  # killed after the very last case
                return
            raise
        connection = StudyConnection(url, seat, machine, folder)
        fields = {name: getattr(seat, name) for name in ("reader", "study_id", "level", "arm")}
        log = EventLog(folder / f"{seat.session_id}.jsonl", session_id=seat.session_id, **fields)
        clock = ReadingClock(log)
        uploader = LogUploader(connection, log.path, seat.session_id)

        def send(connection=connection, seat=seat) -> None:
            for case, receipt in patiently(connection.send_kept).items():
                notes.write(kind="answer", block=seat.block, case=case, sha256=receipt.sha256)

        def upload(uploader=uploader, log=log, seat=seat) -> None:
            head, seq = log.head, log.seq
            patiently(uploader.send)
            notes.write(kind="events", session=seat.session_id, seq=seq, head=head)

        send()
        while not isinstance(found := patiently(connection.next), Done):
            read_one(connection, clock, found, folder, truth, dice, notes)
            send()
            if dice.random() < 0.2:
                upload()
        log.append("session_end")
        upload()
        patiently(lambda: connection.end(log.head, log.seq))  # noqa: B023 - called here
        log.close()
        if not found.next_block:
            return


def says_yes(reader: str, case: str, arm: str, positive: int) -> bool:
    """Draw a decision; by reader and case alone, so that a case read again is answered the same."""
    rate = SENSITIVITY if positive else FALSE_POSITIVES
    return random.Random(f"{reader} {case}").random() < rate[arm]


def read_one(connection, clock, case, folder, truth, dice, notes) -> None:
    """Read one case, timed by the study's clock and by ours."""
    from PASTAAidLib.cases import Cache

    from pasta.labels import LESIONS
    from pasta.report.attributes import BY_NAME, PREDICTED
    from pasta.report.reader import ReaderReport

    seat = connection.seat
    clock.case_requested(case.code, task=seat.task, organ=seat.organ, position=case.position)
    cache = Cache(folder / "cache", 1e9)
    path = patiently(lambda: connection.fetch_image(case.code, cache))
    began = time.monotonic_ns()
    clock.load_start()
    time.sleep(dice.uniform(0.001, 0.004))
    clock.displayed()
    if seat.arm == "assisted":
        clock.wait_start("ai")
        for task in seat.ai:
            patiently(lambda task=task: connection.run(f"pasta_{task}", case.code))
            clock.note("ai_shown", model=f"pasta_{task}")
        clock.wait_end("ai")
    time.sleep(dice.uniform(0.002, 0.02) * (1.0 if seat.arm == "assisted" else 1.8))
    answers, mask = {}, None
    if seat.task == "screen":
        yes = says_yes(seat.reader, case.code, seat.arm, truth[case.code])
        answers = {
            "tumour": int(yes),
            "suspicion": dice.randint(50, 100) if yes else dice.randint(0, 49),
        }
    if seat.task == "segment":
        image = nib.load(path)
        values = np.zeros(image.shape, np.uint8)
        values[8:12, 8:12, 6:9] = 12
        mask = folder / "mask.nii.gz"
        nib.save(nib.Nifti1Image(values, image.affine), mask)
    if answers:
        clock.note("decision", **answers)
    seconds = (time.monotonic_ns() - began) / 1e9  # to the submission, not to its event on the disk
    timing = clock.complete().document()
    notes.write(kind="read", block=seat.block, case=case.code, seconds=seconds)
    report = ReaderReport.empty()
    if seat.needs("attributes"):
        label = next(each for each in LESIONS if each.organ == seat.organ and each.malignant)
        lesion = report.add_lesion(label.name)
        for name in PREDICTED:
            option = dice.choice(BY_NAME[name].options)
            report.set_value(lesion.number, name, option)
    document = {
        "answers": answers,
        "report": report.to_document() if seat.needs("attributes") else None,
        "timing": timing,
        "status": "complete",
    }
    connection.outbox.put(case.code, document, mask)


# ------------------------------------------------------------------------------------------- processes
class Server:
    """The real server, which may be killed and started again."""

    def __init__(self, work: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._work = work
        self.start()

    def start(self) -> None:
        """Start, and wait until it answers."""
        command = [sys.executable, "-m", "monailabel.main", "start_server"]
        command += [
            "--app",
            str(ROOT / "apps" / "pasta_app"),
            "--studies",
            str(self._work / "images"),
        ]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "PASTA_DEVICE": "cpu",
            "PASTA_STUDY": str(self._work / "studies"),
            "PASTA_ADMIN_TOKEN": "simulated-coordinator",
        }
        with (self._work / "server.log").open("ab") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, cwd=self._work, env=environment
            )
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"{self.url}/pasta/study", timeout=5).ok:
                    return
            time.sleep(0.2)
        msg = "the server did not start; see server.log."
        raise RuntimeError(msg)

    def stop(self) -> None:
        """End it in order."""
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        self.process.kill()


class Reader:
    """One reader's process, started again until all is read."""

    def __init__(self, work: Path, url: str, name: str, code: str, seed: int) -> None:
        self.name, self.folder = name, work / "readers" / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self._command = [sys.executable, "-m", "benchmarks.reader_study", "-o", str(self.folder)]
        self._command += ["--as-reader", url, "--seed", str(seed)]
        self._code = code
        self.start()

    def start(self) -> None:
        """Start the process; the code goes in by the environment, not by the process list."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PASTA_READER_CODE": self._code}
        with (self.folder / "output.log").open("ab") as output:
            self.process = subprocess.Popen(
                self._command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, env=environment
            )

    def notes(self) -> list[dict]:
        """What it noted; a torn last line, of a kill, is left out."""
        path = self.folder / "notes.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):  # torn by a kill; the next line may hang on it
                found.append(json.loads(line))
        return found


def conduct(work: Path, plan: dict, kills: int, seed: int) -> tuple[list[Reader], int]:
    """Let all readers read, killing servers and readers on the way."""
    dice = random.Random(seed)
    server = Server(work)
    readers = [Reader(work, server.url, name, plan["codes"][name], seed) for name, _l in READERS]
    done, due = 0, time.monotonic() + dice.uniform(1, 4)
    bar = tqdm(total=plan["reads"], desc="reads", unit="read")
    try:
        while any(reader.process.poll() != 0 for reader in readers):
            for reader in readers:
                status = reader.process.poll()
                if status == -signal.SIGKILL:
                    reader.start()
                elif status:
                    tail = (reader.folder / "output.log").read_text()[-2000:]
                    msg = f"reader {reader.name} failed:\n{tail}"
                    raise RuntimeError(msg)
            answered = {
                (note["block"], note["case"])
                for reader in readers
                for note in reader.notes()
                if note["kind"] == "answer"
            }
            bar.update(len(answered) - bar.n)
            if done < kills and time.monotonic() > due:
                running = [reader for reader in readers if reader.process.poll() is None]
                if running and dice.random() < 0.6:
                    dice.choice(running).process.kill()
                else:
                    server.process.kill()
                    server.process.wait()
                    server.start()
                done, due = done + 1, time.monotonic() + dice.uniform(0.5, 5)
            time.sleep(0.3)
        bar.update(plan["reads"] - bar.n)
    finally:
        bar.close()
        for reader in readers:
            reader.process.kill()
        server.stop()
    return readers, done


# ------------------------------------------------------------------------------------------- the check
def command(*arguments: str) -> str:
    """Run `pasta study ...` as a coordinator does; return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "pasta.cli.main", "study", *arguments],
        capture_output=True, text=True, cwd=ROOT, env=environment, check=False,
    )  # fmt: skip
    if done.returncode:
        msg = f"pasta study {arguments[0]} failed ({done.returncode}):\n{done.stdout}{done.stderr}"
        raise RuntimeError(msg)
    return done.stdout


def rows_of(archive: zipfile.ZipFile, name: str) -> list[dict[str, str]]:
    """Read one table of the export."""
    return list(csv.DictReader(io.StringIO(archive.read(name).decode())))


def compare(work: Path, readers: list[Reader], expected: int) -> dict[str, object]:
    """Look for what is lost or wrong; each count of faults must be 0."""
    from pasta.report.attributes import PREDICTED
    from pasta.study.archive import Archive

    folder = work / "studies" / STUDY
    command("verify", str(folder))
    command("export", str(folder), "-o", str(work / "export.zip"), "--overwrite")
    command("export", str(folder), "-o", str(work / "again.zip"), "--overwrite")
    archive = Archive(folder)
    lost_answers = lost_events = acknowledged = events = 0
    own: dict[tuple[str, str], list[float]] = {}
    for reader in readers:
        for note in reader.notes():
            if note["kind"] == "read":
                own.setdefault((note["block"], note["case"]), []).append(note["seconds"])
            elif note["kind"] == "answer":
                acknowledged += 1
                versions = archive.versions(note["block"], note["case"])
                lost_answers += all(v.record["sha256"] != note["sha256"] for v in versions)
            elif note["seq"]:
                events += note["seq"]
                path = folder / "logs" / f"{note['session']}.jsonl"
                lines = path.read_text().splitlines()
                there = len(lines) >= note["seq"] and json.loads(lines[note["seq"] - 1])["sha256"]
                lost_events += there != note["head"]
    with zipfile.ZipFile(work / "export.zip") as export:
        reads = rows_of(export, "reads.csv")
        logged = rows_of(export, "events.csv")
        described = [
            row for row in rows_of(export, "attributes.csv") if row["attribute"] in PREDICTED
        ]
    reports = sum(row["task"] == "report" for row in reads)
    differences, interrupted, untimed = [], 0, 0
    for row in reads:
        times = own.get((row["block"], row["case"]), [])
        if row["interrupted"] == "1" or len(times) != 1:
            interrupted += 1  # killed while it was read: marked, and no single time is right
            untimed += row["interrupted"] != "1" and not times
            if row["interrupted"] != "1" and len(times) > 1:
                differences.append(abs(float(row["seconds"]) - sum(times)))
            continue
        differences.append(abs(float(row["seconds"]) - times[0]))
    truth = json.loads((work / "truth.json").read_text())
    same = (work / "export.zip").read_bytes() == (work / "again.zip").read_bytes()
    return {
        "reads expected, not exported": expected - len(reads),
        "reads not complete": sum(row["status"] != "complete" for row in reads),
        "reads that the script did not time": untimed,
        "report rows missing": reports * len(PREDICTED) - len(described),
        "acknowledged answers lost": lost_answers,
        "acknowledged events lost": lost_events,
        "AI events in solo sessions": sum(
            row["arm"] == "solo" and row["type"].startswith("ai_") for row in logged
        ),
        "times off by more than 20 ms": sum(d > LARGEST_SECONDS for d in differences),
        "decisions that are not the script's": sum(
            row["task"] == "screen"
            and row["decision"]
            != str(int(says_yes(row["reader"], row["case"], row["arm"], truth[row["case"]])))
            for row in reads
        ),
        "exports that differ when repeated": int(not same),
        "(reads)": len(reads),
        "(answers acknowledged)": acknowledged,
        "(log events)": len(logged),
        "(reads interrupted by a kill, marked)": interrupted,
        "(times compared)": len(differences),
        "(largest difference, ms)": round(1000 * max(differences, default=0.0), 3),
    }


def effect(work: Path) -> str:
    """Analyse the export, and say what became of the known effect."""
    report = work / "report"
    command("analyse", str(work / "export.zip"), "-o", str(report))
    with zipfile.ZipFile(work / "export.zip") as export:
        reads = [row for row in rows_of(export, "reads.csv") if row["task"] == "screen"]
    found = {}
    for arm in SENSITIVITY:
        positive = [row for row in reads if row["arm"] == arm and row["positive"] == "1"]
        found[arm] = sum(row["decision"] == "1" for row in positive) / len(positive)
    enough = len(reads) > 1000  # in a miniature the effect drowns in chance
    if not (report / "results.json").exists() or (enough and found["assisted"] <= found["solo"]):
        msg = f"the analysis does not find the effect: {found}."
        raise RuntimeError(msg)
    digest = hashlib.sha256((work / "export.zip").read_bytes()).hexdigest()[:12]
    return (
        f"recall solo {found['solo']:.3f} (drawn with {SENSITIVITY['solo']}), assisted "
        f"{found['assisted']:.3f} (drawn with {SENSITIVITY['assisted']}); export {digest}"
    )


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder, made anew")
    parser.add_argument("--full", action="store_true", help="60 + 300 cases of three organs")
    parser.add_argument("--kills", type=int, default=2, help="of servers and readers (default 2)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--as-reader", metavar="URL", help=argparse.SUPPRESS)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a study; status 0 only if nothing was lost and no time is wrong."""
    arguments = build_parser().parse_args(argv)
    work = arguments.output.resolve()
    if arguments.as_reader:
        read_all(arguments.as_reader, os.environ["PASTA_READER_CODE"], work, arguments.seed)
        return 0
    if work.exists():
        shutil.rmtree(work)
    work.mkdir(parents=True)
    sizes = (ORGANS, 60, 300, 8) if arguments.full else (ORGANS, 2, 2, 2)
    plan = make_study(work, *sizes)
    began = time.monotonic()
    readers, kills = conduct(work, plan, arguments.kills, arguments.seed)
    minutes = (time.monotonic() - began) / 60
    found = compare(work, readers, plan["reads"])
    print(f"\n| {kills} kills, {minutes:.1f} min | count |\n|---|---|")
    for name, value in found.items():
        print(f"| {name} | {value} |")
    print(f"\n{effect(work)}")
    return int(any(value for name, value in found.items() if not name.startswith("(")))


if __name__ == "__main__":
    sys.exit(main())
