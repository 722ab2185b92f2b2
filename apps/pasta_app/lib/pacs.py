"""A PACS in the place of the studies folder: `--studies http://orthanc:8042/dicom-web`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pasta.store import Store

if TYPE_CHECKING:
    from pasta.settings import Settings


def store_of(studies: str, config: Settings) -> Store:
    """Open the store of a folder, or of a PACS where an address is given.

    Raises:
        PastaError: if the folder cannot be written to, or the extra `dicom` is not installed.
    """
    if not studies.startswith(("http://", "https://")):
        return Store(Path(studies))
    from pasta.dicom.pacs_store import PacsStore, default_folder
    from pasta.dicom.web import Pacs

    pacs = Pacs(
        studies,
        config.pacs_user,
        config.pacs_password,
        config.pacs_token,
        config.pacs_authorities,
    )
    return PacsStore(pacs, config.pacs_cache or default_folder(studies))


def send_results(store: Store) -> None:
    """Send submitted results back, where the store is one of a PACS."""
    if type(store) is Store:
        return
    from pasta.dicom.outbox import Outbox
    from pasta.dicom.pacs_store import PacsStore

    if isinstance(store, PacsStore):
        Outbox(store).start()
