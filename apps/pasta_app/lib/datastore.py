"""MONAI Label's view of the store."""

from __future__ import annotations

import tempfile
import threading
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monailabel.interfaces.datastore import Datastore

from pasta.errors import LabelError, StoreError
from pasta.io import read_labelmap, read_volume
from pasta.labels import label_named

if TYPE_CHECKING:
    from pasta.store import LabelRecord, Store

READER_SEPARATOR = "@"
_REFRESH_SECONDS = 10.0
FINAL = "final"


class PastaDatastore(Datastore):
    """The methods that MONAI Label calls; label ids are `image` or `image@reader`.

    Args:
        store: that does the work.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._stop = threading.Event()

    def watch(self) -> None:
        """Look for new files now and then, so that no request has to wait for it."""

        def look() -> None:
            while not self._stop.wait(_REFRESH_SECONDS):
                self.store.images(look_again=True)

        threading.Thread(target=look, name="store", daemon=True).start()

    def name(self) -> str:
        return "PASTA-AID store"

    def set_name(self, name: str) -> None:
        msg = f"the store cannot be renamed to {name[:40]!r}."
        raise StoreError(msg)

    def description(self) -> str:
        return "Images of the studies folder; every version of every label"

    def set_description(self, description: str) -> None:
        msg = f"the store cannot be described as {description[:40]!r}."
        raise StoreError(msg)

    def datalist(self) -> list[dict[str, Any]]:
        images = self.store.images()
        return [
            {
                "image": str(images[record.image].path),
                "label": str(self.store.label_path(record)),
                "reader": record.reader,
            }
            for record in self._newest(FINAL)
            if record.image in images
        ]

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        self.store.image(image_id)
        return {record.tag: image_id for record in self.store.labels(image_id)}

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        return self.get_labels_by_image_id(image_id).get(tag, "")

    def get_image(self, image_id: str, params: Any = None) -> Any:  # noqa: ARG002
        return read_volume(self.store.image(image_id).path)

    def get_image_uri(self, image_id: str) -> str:
        return str(self.store.image(image_id).path)

    def get_label(self, label_id: str, label_tag: str, params: Any = None) -> Any:  # noqa: ARG002
        return read_labelmap(Path(self.get_label_uri(label_id, label_tag)))

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        return str(self.store.label_path(self.label(label_id, label_tag)))

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        return self.store.image_info(image_id)

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        record = self.label(label_id, label_tag)
        document = record.document()
        return {**document.pop("info"), **document}

    def get_labeled_images(
        self, label_tag: str | None = None, labels: list[str] | None = None
    ) -> list[str]:
        wanted = label_tag or FINAL
        values = {_value(name) for name in labels or ()}
        images = self.store.images()
        return sorted(
            {
                record.image
                for record in self.store.labels()
                if record.tag == wanted
                and record.image in images
                and (not values or values & set(record.values))
            }
        )

    def get_unlabeled_images(
        self, label_tag: str | None = None, labels: list[str] | None = None
    ) -> list[str]:
        labelled = set(self.get_labeled_images(label_tag, labels))
        return [image_id for image_id in self.list_images() if image_id not in labelled]

    def list_images(self) -> list[str]:
        return sorted(self.store.images())

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        pairs = self.datalist()[: limit_cases or None]
        if not pairs:
            msg = "no image has a label with tag 'final' yet; there is nothing to download."
            raise StoreError(msg)
        with tempfile.NamedTemporaryFile(suffix=".zip", delete=False) as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for number, pair in enumerate(pairs):
                    for kind in ("image", "label"):
                        _add(archive, Path(pair[kind]), f"{kind}/{number:04d}")
            return file.name

    def refresh(self) -> None:
        self.store.refresh()

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        return self.store.add_image(Path(image_filename), image_id or None, image_info)

    def remove_image(self, image_id: str) -> None:
        self.store.remove_image(image_id)

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]
    ) -> str:
        info = dict(label_info)
        reader = info.pop("reader", None) or info.get("model") or "anonymous"
        record = self.store.save_label(
            image_id, Path(label_filename), tag=label_tag, reader=reader, info=info
        )
        return label_id_of(record)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        image_id, reader = split_label_id(label_id)
        self.store.remove_label(image_id, label_tag, reader)

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        self.store.update_image_info(image_id, info)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        image_id, reader = split_label_id(label_id)
        self.store.update_label_info(image_id, label_tag, reader, info)

    def status(self) -> dict[str, Any]:
        return self.store.status()

    def json(self) -> dict[str, Any]:
        objects = {}
        for image_id, image in self.store.images().items():
            labels = {
                record.tag: {"ext": ".nii.gz", "info": {"reader": record.reader, **record.info}}
                for record in self.store.labels(image_id)
            }
            objects[image_id] = {
                "image": {"ext": "", "info": {"kind": image.kind}},
                "labels": labels,
            }
        return {"name": self.name(), "description": self.description(), "objects": objects}

    def label(self, label_id: str, tag: str) -> LabelRecord:
        """Look up the record that a label id of a client means.

        Raises:
            StoreError: if there is none.
        """
        image_id, reader = split_label_id(label_id)
        return self.store.label(image_id, tag, reader)

    def _newest(self, tag: str) -> list[LabelRecord]:
        newest: dict[str, LabelRecord] = {}
        for record in sorted(self.store.labels(), key=lambda record: record.created):
            if record.tag == tag:
                newest[record.image] = record
        return list(newest.values())


def label_id_of(record: LabelRecord) -> str:
    """Name a label in requests."""
    return f"{record.image}{READER_SEPARATOR}{record.reader}"


def split_label_id(label_id: str) -> tuple[str, str | None]:
    """Take image and reader out of a label id; the store checks both."""
    image_id, _, reader = label_id.partition(READER_SEPARATOR)
    return image_id, reader or None


def _value(name: str) -> int:
    try:
        return label_named(name).value
    except LabelError as error:
        raise StoreError(str(error)) from None


def _add(archive: zipfile.ZipFile, path: Path, stem: str) -> None:
    if path.is_dir():
        for number, file in enumerate(sorted(path.iterdir())):
            if file.is_file() and not file.name.startswith("."):
                archive.write(file, f"{stem}/{number:04d}.dcm")
    else:
        suffix = ".nii.gz" if path.name.endswith(".nii.gz") else path.suffix
        archive.write(path, f"{stem}{suffix}")
