"""The store: images in a folder of studies, labels with every version, metadata that is not lost.

Everything the store writes lies in the hidden folder `.pasta` of the studies folder:
`labels/<image>/<tag>/<reader>/v0001.nii.gz` with `v0001.json` beside it, `images/<image>/record.json`
(and the file, for uploads), and `index.json`, a cache. A label is saved once its JSON is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pasta.errors import OutputError, StoreError
from pasta.geometry import Grid, Volume
from pasta.io import find_volumes, read_volume, write_labelmap
from pasta.store.facts import (
    copied,
    facts_document,
    facts_of,
    fitting,
    last_version,
    private_folder,
    stat_of,
    values_in,
)
from pasta.store.index import RECORD_FILE, Index, read_label
from pasta.store.names import (
    checked_name,
    image_id_of,
    is_name,
    minted_id,
    refuse_path,
    stem_of,
)
from pasta.store.records import Image, LabelRecord, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping

_UPLOAD = "upload"


class Store:
    """Images and labels of one studies folder; safe with several threads and processes.

    Args:
        folder: of the studies; made if it is not there.
        private: where the store writes; by default `.pasta` in the studies folder, or a folder in
            the user's data home where the studies are read-only.

    Raises:
        OutputError: if the folder cannot be written to.
    """

    def __init__(self, folder: Path, private: Path | None = None) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.private = private or private_folder(self.folder)
            for name in ("images", "labels"):
                (self.private / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            msg = f"{error.filename}: cannot be written ({error.strerror}). Check its permissions."
            raise OutputError(msg) from error
        self._index = Index(self.private)
        self._found: dict[str, Image] | None = None

    # --- images

    def refresh(self) -> None:
        """Look for images again, and read all records again."""
        self._index.rebuild()
        self.images(look_again=True)

    def images(self, *, look_again: bool = False) -> dict[str, Image]:
        """All images by id.

        Args:
            look_again: search the studies folder now; else files are those seen last.
        """
        found = self._found
        if found is None or look_again:
            found = self._found = self._look()
        uploads = {
            image_id: self._uploaded(image_id, record)
            for image_id, record in self._index.images().items()
            if record.get("kind") == _UPLOAD
        }
        return {**found, **uploads}

    def image(self, image_id: str) -> Image:
        """Look one image up; a file that came since the last `refresh` is found too.

        Raises:
            StoreError: if there is no such image.
        """
        checked_name("image id", image_id)
        for look_again in (False, True):
            image = self.images(look_again=look_again).get(image_id)
            if image is not None and image.path.exists():
                return image
        msg = f"no image {image_id!r} in the store; list the images for their ids."
        raise StoreError(msg)

    def grid(self, image_id: str) -> Grid:
        """Voxel grid of an image; read once, then remembered until the file changes.

        Raises:
            StoreError: if there is no such image.
            VolumeError: if it cannot be read.
        """
        return self._facts(self.image(image_id))[0]

    def sha256(self, image_id: str) -> str:
        """SHA-256 of the bytes of an image; remembered until the file changes.

        Raises:
            StoreError: if there is no such image.
            VolumeError: if it cannot be read.
        """
        return self._facts(self.image(image_id))[1]

    def add_image(
        self, source: Path, wanted: str | None = None, info: Mapping[str, Any] | None = None
    ) -> str:
        """Copy an image into the store once it is found to be a CT volume.

        Args:
            source: file, or folder of a DICOM series; its name may hold anything.
            wanted: id or name to take if it is allowed; else a similar one is made up.
            info: what the client says about it.

        Returns:
            Its id; that of the present image if the very same bytes are there already.

        Raises:
            StoreError: if another image has the wanted id, or it looks like a path.
            VolumeError: if it is not one CT volume.
            OutputError: if there is no space.
        """
        refuse_path(wanted or stem_of(source.name))
        volume = read_volume(source)
        name = stem_of(wanted or source.name)
        image_id = name if is_name(name) else minted_id(name)
        record = {
            "id": image_id,
            "kind": _UPLOAD,
            "created": _now(),
            "info": dict(info or {}),
            **facts_document(volume),
        }
        incoming = self.private / "images" / f".incoming-{secrets.token_hex(8)}"
        try:
            record["file"] = copied(source, incoming)
            write_json(incoming / RECORD_FILE, record)
            with self._index.writing() as index:
                taken = self._taken(image_id, index)
                if taken:
                    present = index.images().get(image_id, {})
                    if present.get("sha256") == volume.sha256 and volume.sha256:
                        return image_id
                    msg = f"image id {image_id!r} is taken by another image; choose another name."
                    raise StoreError(msg)
                incoming.rename(self.private / "images" / image_id)
                index.put_image(image_id, record)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        return image_id

    def remove_image(self, image_id: str) -> None:
        """Take an uploaded image and its labels out of the lists; kept in `removed`.

        Raises:
            StoreError: if there is no such image, or it is a file of the studies folder.
        """
        if self.image(image_id).kind != _UPLOAD:
            msg = f"image {image_id!r} is a file of the studies folder; remove the file there."
            raise StoreError(msg)
        removed = self.private / "removed" / f"{image_id}-{_stamp()}-{secrets.token_hex(2)}"
        removed.mkdir(parents=True)
        with self._index.writing() as index:
            for kind in ("labels", "images"):
                with contextlib.suppress(FileNotFoundError):
                    (self.private / kind / image_id).rename(removed / kind)
            index.put_image(image_id, None)

    def image_info(self, image_id: str) -> dict[str, Any]:
        """What is known of an image: id, kind, and what clients said."""
        image = self.image(image_id)
        record = self._index.images().get(image_id, {})
        return {**record.get("info", {}), "id": image.id, "kind": image.kind}

    def update_image_info(self, image_id: str, info: Mapping[str, Any]) -> None:
        """Merge keys into what clients said of an image; keys not named stay as they are."""
        image = self.image(image_id)
        self._put_record(image, lambda record: _merged(record, info))

    # --- labels

    def save_label(
        self,
        image_id: str,
        label: Path | Volume,
        *,
        tag: str,
        reader: str,
        info: Mapping[str, Any] | None = None,
    ) -> LabelRecord:
        """Save a new version of the label that a reader drew on an image.

        On return it is on the disk, and every earlier version still is.

        Args:
            image_id: of the image.
            label: labelmap, or a file with one.
            tag: what it is for.
            reader: who drew it.
            info: timings, comments.

        Raises:
            StoreError: if the image is unknown, or tag or reader are not allowed.
            LabelError: if values or grid do not fit the image.
            OutputError: if there is no space; the label is as before.
        """
        tag, reader = checked_name("tag", tag), checked_name("reader", reader)
        grid, image_sha256 = self._facts(self.image(image_id))
        labelmap = fitting(label, grid)
        folder = self.private / "labels" / image_id / tag / reader
        folder.mkdir(parents=True, exist_ok=True)
        incoming = folder / f"incoming-{secrets.token_hex(8)}.nii.gz"
        try:
            write_labelmap(labelmap, incoming)
            sha256 = hashlib.sha256(incoming.read_bytes()).hexdigest()
            values = values_in(labelmap)
            with self._index.writing() as index:
                version = last_version(folder) + 1
                former = index.labels().get(image_id, {}).get(tag, {}).get(reader)
                record = LabelRecord(
                    image_id,
                    tag,
                    reader,
                    version,
                    f"v{version:04d}.nii.gz",
                    sha256,
                    values,
                    image_sha256,
                    _now(),
                    dict(info or {}),
                    replaced=former.version if former and not former.withdrawn else 0,
                )
                incoming.rename(folder / record.file)
                write_json(folder / f"v{version:04d}.json", record.document())
                index.put_label(record)
        finally:
            incoming.unlink(missing_ok=True)
        return record

    def label(self, image_id: str, tag: str, reader: str | None = None) -> LabelRecord:
        """Current label of an image; the newest of all readers if none is named.

        Raises:
            StoreError: if there is none.
        """
        self.image(image_id)
        found = [
            record
            for record in self.labels(image_id)
            if record.tag == tag and reader in (None, record.reader)
        ]
        if not found:
            by = f" by reader {reader!r}" if reader else ""
            msg = f"no label {tag!r}{by} for image {image_id!r}; list the labels of the image."
            raise StoreError(msg)
        return max(found, key=lambda record: (record.created, record.reader))

    def labels(self, image_id: str | None = None) -> list[LabelRecord]:
        """Current labels of one image or of all, without withdrawn ones."""
        known = self._index.labels()
        chosen = known.values() if image_id is None else (known.get(image_id, {}),)
        tags = (readers for image in chosen for readers in image.values())
        return [record for found in tags for record in found.values() if not record.withdrawn]

    def history(self, image_id: str, tag: str, reader: str) -> list[LabelRecord]:
        """Every version of a label, oldest first."""
        folder = self._label_folder(image_id, tag, reader)
        records = (read_label(path) for path in sorted(folder.glob("v*.json")))
        return [record for record in records if record is not None]

    def label_path(self, record: LabelRecord) -> Path:
        """File of one version of a label."""
        folder = self._label_folder(record.image, record.tag, record.reader)
        return folder / checked_name("label file", record.file)

    def remove_label(self, image_id: str, tag: str, reader: str | None = None) -> None:
        """Withdraw a label; its versions stay on the disk.

        Raises:
            StoreError: if there is none.
        """
        current = self.label(image_id, tag, reader)
        folder = self._label_folder(image_id, tag, current.reader)
        with self._index.writing() as index:
            version = last_version(folder) + 1
            record = replace(
                current,
                version=version,
                file="",
                sha256="",
                values=(),
                created=_now(),
                info={},
                withdrawn=True,
                replaced=current.version,
            )
            write_json(folder / f"v{version:04d}.json", record.document())
            index.put_label(record)

    def update_label_info(
        self, image_id: str, tag: str, reader: str | None, info: Mapping[str, Any]
    ) -> None:
        """Merge keys into what clients said of the current version of a label."""
        chosen = self.label(image_id, tag, reader).reader
        folder = self._label_folder(image_id, tag, chosen)
        with self._index.writing() as index:
            current = index.labels()[image_id][tag][chosen]
            record = replace(current, info={**current.info, **info})
            write_json(folder / f"v{record.version:04d}.json", record.document())
            index.put_label(record)

    def status(self) -> dict[str, Any]:
        """Numbers of images, of those with a "final" label, and of labels per tag."""
        images = self.images()
        tags: dict[str, int] = {}
        final = set()
        for record in self.labels():
            tags[record.tag] = tags.get(record.tag, 0) + 1
            if record.tag == "final" and record.image in images:
                final.add(record.image)
        return {"total": len(images), "completed": len(final), "label_tags": tags}

    def _look(self) -> dict[str, Image]:
        found: dict[str, Image] = {}
        records = self._index.images()
        for path in find_volumes(self.folder):
            relative = path.relative_to(self.folder)
            folder = path.is_dir()
            image_id = image_id_of(relative, folder=folder)
            if records.get(image_id, {}).get("kind") == _UPLOAD:
                image_id = image_id_of(relative, folder=folder, hashed=True)
            found[image_id] = Image(image_id, path, "series" if folder else "file")
        return found

    def _uploaded(self, image_id: str, record: Mapping[str, Any]) -> Image:
        name = checked_name("file of an upload", record.get("file"))
        return Image(image_id, self.private / "images" / image_id / name, _UPLOAD)

    def _taken(self, image_id: str, index: Index) -> bool:
        """Tell whether an id means something already, if only the labels of a file now gone."""
        return (
            image_id in index.images()
            or image_id in self._look()
            or (self.private / "labels" / image_id).exists()
        )

    def _label_folder(self, image_id: str, tag: str, reader: str) -> Path:
        names = (
            checked_name("image id", image_id),
            checked_name("tag", tag),
            checked_name("reader", reader),
        )
        return self.private.joinpath("labels", *names)

    def _facts(self, image: Image) -> tuple[Grid, str]:
        """Grid and SHA-256 of an image, from its record where the file is as it was then."""
        record = self._index.images().get(image.id, {})
        facts = facts_of(record)
        if facts is not None and (
            image.kind == _UPLOAD or record.get("stat") == stat_of(image.path)
        ):
            return facts
        stat = stat_of(image.path)
        volume = read_volume(image.path)
        document = {**facts_document(volume), "stat": stat}
        self._put_record(image, lambda record: {**record, **document})
        return volume.grid, volume.sha256

    def _put_record(self, image: Image, change: Any) -> None:
        folder = self.private / "images" / image.id
        folder.mkdir(exist_ok=True)
        with self._index.writing() as index:
            record = change(index.images().get(image.id, {"id": image.id, "kind": image.kind}))
            write_json(folder / RECORD_FILE, record)
            index.put_image(image.id, record)


def _merged(record: dict[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
    return {**record, "info": {**record.get("info", {}), **info}}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _stamp() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
