"""The store of images and labels: a local folder, every version kept, safe with several writers."""

from pasta.store.names import checked_name, image_id_of
from pasta.store.records import Image, LabelRecord
from pasta.store.store import Store

__all__ = ["Image", "LabelRecord", "Store", "checked_name", "image_id_of"]
