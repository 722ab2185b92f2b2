"""A PACS over DICOMweb: list CT series (QIDO-RS), fetch them (WADO-RS), store results (STOW-RS).

Errors say what went wrong, never with which patient, study or address part that holds a UID.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import requests
from dicomweb_client.api import DICOMwebClient

from pasta.errors import PacsError, PastaError
from pasta.io.files import atomic_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pydicom

_PAGE = 200
_TIMEOUT_SECONDS = (5, 120)  # to connect, between two pieces of an answer
_STUDY, _SERIES, _COUNT, _INSTANCE = "0020000D", "0020000E", "00201209", "00080018"
# what they log holds UIDs
for _name in ("dicomweb_client", "urllib3.connectionpool"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class RemoteSeries:
    """A CT series of a PACS; its UIDs are not for logs.

    Attributes:
        study_uid: StudyInstanceUID.
        series_uid: SeriesInstanceUID.
        count: images in it, as the PACS says; 0 where it does not.
    """

    study_uid: str
    series_uid: str
    count: int


class Pacs:
    """A DICOMweb server.

    Args:
        url: its root, such as "http://orthanc:8042/dicom-web".
        user: for HTTP basic authentication; "" for none.
        password: of the user.
        token: bearer token, instead of user and password.
        authorities: file of certificate authorities to trust for HTTPS; None for the usual ones.
    """

    def __init__(
        self,
        url: str,
        user: str = "",
        password: str = "",
        token: str = "",
        authorities: Path | None = None,
    ) -> None:
        session = requests.Session()
        session.trust_env = False  # patient data through no proxy that happens to be set
        if authorities is not None:
            session.verify = str(authorities)
        if token:
            session.headers["Authorization"] = f"Bearer {token}"
        elif user:
            session.auth = (user, password)
        session.request = functools.partial(session.request, timeout=_TIMEOUT_SECONDS)  # type: ignore[method-assign]
        self._client = DICOMwebClient(url=url.rstrip("/"), session=session, chunk_size=1 << 20)
        self._client.set_http_retry_params(retry=False)  # whoever calls decides when to try again

    def ct_series(self) -> list[RemoteSeries]:
        """List the CT series.

        Raises:
            PacsError: if the PACS does not answer or refuses.
        """
        found = self._listed(
            _SERIES,
            self._client.search_for_series,
            search_filters={"Modality": "CT"},
            fields=[_COUNT],
        )
        return [
            RemoteSeries(_value(item, _STUDY), uid, int(_value(item, _COUNT) or 0))
            for uid, item in found.items()
        ]

    def fetch(self, series: RemoteSeries, folder: Path) -> int:
        """Fetch all images of a series into a folder, as 0001.dcm and so on.

        Returns:
            How many there are.

        Raises:
            PacsError: if the PACS does not answer, or what came is not the series that it lists.
            OutputError: if there is no space.
        """
        search = self._client.search_for_instances
        wanted = set(self._listed(_INSTANCE, search, series.study_uid, series.series_uid))
        arrived: set[str] = set()
        try:
            for dataset in self._client.iter_series(series.study_uid, series.series_uid):
                if dataset.SeriesInstanceUID != series.series_uid:
                    msg = "the PACS sent an image of another series. Ask its administrator."
                    raise PacsError(msg)
                arrived.add(str(dataset.SOPInstanceUID))
                with atomic_file(folder / f"{len(arrived):04d}.dcm") as file:
                    dataset.save_as(file, write_like_original=False)
        except PastaError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the parser of a cut-off answer raises
            raise _refusal(error) from None
        if arrived != wanted:
            missing, surplus = len(wanted - arrived), len(arrived - wanted)
            msg = (
                f"the PACS lists {len(wanted)} images of a series; {missing} of them did not arrive, "
                f"{surplus} others did. Try again once the series is complete."
            )
            raise PacsError(msg)
        return len(arrived)

    def store(self, datasets: Sequence[pydicom.Dataset]) -> None:
        """Store objects; storing one again changes nothing.

        Raises:
            PacsError: if the PACS does not answer or has not taken every one.
        """
        answer = self._asked(self._client.store_instances, list(datasets))
        taken = {
            str(item.ReferencedSOPInstanceUID) for item in answer.get("ReferencedSOPSequence") or ()
        }
        left = sum(str(dataset.SOPInstanceUID) not in taken for dataset in datasets)
        if left:
            msg = f"the PACS refused {left} of {len(datasets)} objects. Ask its administrator why."
            raise PacsError(msg)

    def _listed(self, tag: str, search: Any, *args: Any, **keywords: Any) -> dict[str, Any]:
        """Ask page by page; answers by their UID. A server that knows no pages gives all at once."""
        found: dict[str, Any] = {}
        while True:
            page = self._asked(search, *args, limit=_PAGE, offset=len(found), **keywords)
            before = len(found)
            found.update({_value(item, tag): item for item in page})
            if len(page) < _PAGE or len(found) == before:
                return found

    def _asked(self, ask: Any, *args: Any, **keywords: Any) -> Any:
        try:
            return ask(*args, **keywords)
        except (requests.RequestException, ValueError, KeyError, OSError) as error:
            raise _refusal(error) from None


def _refusal(error: Exception) -> PacsError:
    """Say what failed without the address that was asked: it holds UIDs."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        status = error.response.status_code
        if status in (401, 403):
            return PacsError("the PACS refuses our credentials. Check user, password or token.")
        return PacsError(f"the PACS answered with HTTP status {status}. See its log.")
    if isinstance(error, requests.Timeout):
        return PacsError("the PACS does not answer in time. Try again later.")
    if isinstance(error, requests.ConnectionError):
        return PacsError("the PACS cannot be reached. Check its address and the network.")
    return PacsError(f"the answer of the PACS is not DICOMweb ({type(error).__name__}).")


def _value(item: Any, tag: str) -> str:
    values = item.get(tag, {}).get("Value") or [""]
    return str(values[0])
