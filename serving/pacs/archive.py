"""A DICOMweb archive: list the series of a study, fetch one to disk, store objects."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any

import requests
from dicomweb_client import DICOMwebClient
from pydicom import Dataset, dcmread

from imaging.errors import InputTooLarge, PacsError
from imaging.limits import MIB, Limits
from serving.pacs.config import Server
from serving.pacs.rules import Series
from serving.pacs.transport import asking, open_session
from serving.pacs.uids import check_uid

logger = logging.getLogger("islet.pacs")

# A search of a study, the header of an instance or the answer to a store has no reason to be
# longer.
_ANSWER_BYTES = 32 * MIB
# Returned by many archives only when asked for.
_FIELDS = ("BodyPartExamined", "SeriesDescription", "NumberOfSeriesRelatedInstances")
# In the transfer syntax that the archive has: nothing is decoded there to be sent.
_AS_STORED = (("application/dicom", "*"),)


class Archive:
    """One DICOMweb server, for one job. A context manager.

    Args:
        server: whom to ask.
        limits: on the files of a series and their bytes together.

    Raises:
        BadParameter: its credentials are not there.
    """

    def __init__(self, server: Server, limits: Limits) -> None:
        self._server = server
        self._limits = limits
        self._sessions = (
            open_session(server, _ANSWER_BYTES, server.timeout_s),
            open_session(server, limits.max_unpacked_bytes, server.transfer_s),
        )
        self._client, self._fetching = (_client(server, session) for session in self._sessions)
        if server.in_clear:
            logger.warning("credentials of %s travel unencrypted; use https", server.name)

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for session in self._sessions:
            session.close()

    def series(self, study: str) -> list[Series]:
        """What a search says of every series of a study, in no order; empty for no such study.

        Raises:
            PacsError: the search failed.
        """
        with asking(self._server, "listing series"), _quiet():
            found = self._client.search_for_series(study, fields=_FIELDS)
            headers = [Dataset.from_json(item) for item in found]
            for header in headers:
                check_uid("series", str(header.SeriesInstanceUID))
            return [Series.of(header) for header in headers]

    def described(self, study: str, series: Series) -> Series:
        """The series with what the header of one of its instances says.

        Raises:
            PacsError: there is none, or it cannot be had.
        """
        with asking(self._server, "reading a header"), _quiet():
            instances = self._client.search_for_instances(study, series.uid)
            uids = sorted(str(Dataset.from_json(item).SOPInstanceUID) for item in instances)
            # The middle one: localizers, where they are in a series, stand at an end.
            middle = check_uid("instance", uids[len(uids) // 2])
            found = self._client.retrieve_instance_metadata(study, series.uid, middle)
            header = Dataset.from_json(found)
            # An archive may list no more than so many at a time.
            made = Series.of(header, max(len(uids), series.instances or 0))
        description = made.description or series.description
        return replace(made, uid=series.uid, description=description)

    def fetch(
        self, study: str, series: Series, folder: Path, progress: Callable[[str, float], None]
    ) -> list[Path]:
        """Write every instance of a series into a folder, one at a time in memory.

        Args:
            study: StudyInstanceUID.
            series: which, and how many instances it must have.
            folder: exists.
            progress: told of ``fetch``; raising in it stops the work.

        Raises:
            PacsError: the archive sends fewer instances, those of another series, or fails.
            InputTooLarge: more files or bytes than the limits.
        """
        files: dict[str, Path] = {}
        expected = series.instances or 0
        self._check_count(expected)
        with asking(self._server, "fetching the series"), _quiet():
            for dataset in self._fetching.iter_series(study, series.uid, media_types=_AS_STORED):
                if str(dataset.SeriesInstanceUID) != series.uid:
                    raise self._wrong("it sent an instance of another series")
                path = folder / f"{len(files):06d}.dcm"
                dataset.save_as(files.setdefault(str(dataset.SOPInstanceUID), path))
                self._check_count(len(files))
                progress("fetch", min(1.0, len(files) / max(expected, 1)))
        if len(files) < expected or not files:
            raise self._wrong(
                f"it sent {len(files)} of {expected} instances", sent=len(files), expected=expected
            )
        return list(files.values())

    def store(
        self, study: str, files: Mapping[str, Path], progress: Callable[[str, float], None]
    ) -> list[str]:
        """Store DICOM files in a study, each in a request of its own.

        Every file is tried, whatever became of the others.

        Args:
            study: StudyInstanceUID of them all.
            files: by the name that an error calls them.
            progress: told of ``store``; raising in it stops the work.

        Returns:
            SOPInstanceUID of each.

        Raises:
            PacsError: some were not taken; its details name them and those that were.
        """
        stored: list[str] = []
        failed: list[dict[str, str]] = []
        for number, (name, path) in enumerate(files.items()):
            progress("store", number / len(files))
            dataset = dcmread(path)
            reason = self._store(study, dataset)
            if reason is None:
                stored.append(str(dataset.SOPInstanceUID))
            else:
                failed.append({"file": name, "reason": reason})
        progress("store", 1.0)
        if failed:
            told = ", ".join(f"{f['file']} ({f['reason']})" for f in failed)
            raise PacsError(
                f"{self._server.name} did not take {len(failed)} of {len(files)} objects: {told}.",
                server=self._server.name,
                failed=failed,
                stored=stored,
            )
        return stored

    def _store(self, study: str, dataset: Dataset) -> str | None:
        """Why the archive did not take an object, or ``None``."""
        try:
            with asking(self._server, "storing"), _quiet():
                answer = self._answer(study, dataset)
                refused = answer.get("FailedSOPSequence") or []
                taken = answer.get("ReferencedSOPSequence")
                mine = {str(item.ReferencedSOPInstanceUID) for item in taken or []}
                codes = [int(item.get("FailureReason") or 0) for item in refused]
        except PacsError as error:
            return error.message
        if codes:
            return ", ".join(f"failure reason 0x{code:04X}" for code in codes)
        if taken is not None and str(dataset.SOPInstanceUID) not in mine:
            return "it is not among those that the answer says are stored"
        return None

    def _answer(self, study: str, dataset: Dataset) -> Dataset:
        try:
            answer: Dataset = self._fetching.store_instances([dataset], study)
        except requests.HTTPError as error:
            # The status of a store that failed altogether; its reason stands in the body.
            if error.response is None or error.response.status_code != HTTPStatus.CONFLICT:
                raise
            answer = Dataset.from_json(error.response.json())
            if "FailedSOPSequence" not in answer:
                raise
        return answer

    def _check_count(self, files: int) -> None:
        if files > self._limits.max_files:
            raise InputTooLarge(
                f"The series has {files} instances or more, over the limit of "
                f"{self._limits.max_files}.",
                files=files,
                max_files=self._limits.max_files,
            )

    def _wrong(self, what: str, **details: Any) -> PacsError:
        return PacsError(
            f"{self._server.name} failed while fetching the series: {what}.",
            server=self._server.name,
            **details,
        )


def _client(server: Server, session: requests.Session) -> Any:
    client = DICOMwebClient(
        server.url.rstrip("/"),
        session,
        qido_url_prefix=server.qido,
        wado_url_prefix=server.wado,
        stow_url_prefix=server.stow,
        permissive_uid=True,
        timeout=server.timeout_s,
    )
    # Its own retries sleep for longer than a caller waits, and repeat what was refused.
    client.set_http_retry_params(retry=False)
    return client


@contextmanager
def _quiet() -> Iterator[None]:
    # The libraries quote answers, and a header holds a patient's name. The level stays: restored
    # by one thread, it would speak in another.
    for name in ("pydicom", "dicomweb_client", "retrying"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
