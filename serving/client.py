"""A Python client of the service: a CT out, masks and reports in.

It needs httpx alone of what serving needs. Uploads stream from disk, survive a lost connection
and are never done twice; what the service refuses is raised as the same error that it raised::

    with Client("https://islet.example:3000", token=...) as islet:
        result = islet.segment(Path("ct"), Path("out"), structures=["kidney"])
        print(result.report["masks"]["kidney"]["volume_ml"])
"""

from __future__ import annotations

import json
import tempfile
import uuid
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import httpx

from imaging.errors import BadParameter, Cancelled, ServiceFailed, TruncatedFile
from imaging.files import write_whole
from serving.bodies import FormBody, ct_body
from serving.wire import Wire, error_of

# Called with a step's name and the part of it that is done, 0..1; raising ``Cancelled`` stops.
Progress = Callable[[str, float], None]

_ENDED = frozenset({"done", "failed", "cancelled"})
_REPORT = "report.json"
_LOST = "connection lost"


@dataclass(frozen=True)
class Result:
    """What a job gave, unpacked.

    Attributes:
        folder: where it lies.
        files: paths, in the order of the result.
        report: ``report.json``.
    """

    folder: Path
    files: tuple[Path, ...]
    report: dict[str, Any]


class Client:
    """A service at a URL; a context manager, and safe to share between threads.

    Args:
        url: of the service, without ``/v1``.
        token: bearer token, where the service asks for one.
        ca: file of the certificates to trust; the system's where there is none.
        certificate: this client's own certificate and key, where the service asks for one.
        timeout: seconds without a byte before a connection counts as lost.
        patience: seconds that lost connections and a full queue are tried again.

    Raises:
        BadParameter: no http or https URL, or a certificate that does not load.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        ca: Path | None = None,
        certificate: tuple[Path, Path] | None = None,
        timeout: float = 60.0,
        patience: float = 120.0,
    ) -> None:
        self._wire = Wire(url, token, ca, certificate, timeout, patience)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._wire.close()

    def close(self) -> None:
        """Drop the connections."""
        self._wire.close()

    def segment(
        self,
        ct: Path,
        out: Path,
        *,
        progress: Progress | None = None,
        **options: Any,
    ) -> Result:
        """Send a CT, wait, and unpack its result into ``out``.

        Args:
            ct: a file as the service takes it, or a folder of DICOM files.
            out: folder; made where it is missing.
            progress: told of every step; ``Cancelled`` raised in it cancels the job, as Ctrl-C
                does.
            options: see :meth:`submit`.

        Raises:
            IsletError: what the service refused with or the job ended with.
            ServiceFailed: no answer within the patience; the job goes on.
        """
        job = self.submit(ct, **options)
        try:
            job.wait(progress)
        except (Cancelled, KeyboardInterrupt):
            job.cancel()
            raise
        return job.result(out)

    def submit(
        self,
        ct: Path,
        *,
        model: str | None = None,
        structures: Sequence[str] = (),
        outputs: Sequence[str] = (),
        series: str | None = None,
        device: str | None = None,
        doubtful: str | None = None,
        priority: str | None = None,
        key: str | None = None,
    ) -> RemoteJob:
        """Send a CT as a job, which is on the service's disk when this returns.

        Args:
            ct: a file as the service takes it, or a folder of DICOM files.
            model: reference; the service's default where there is none.
            structures: names of the masks; the service's default where there is none.
            outputs: ``nifti``, ``seg``, ``rtstruct``, ``sr`` and so on; NIfTI where there is none.
            series: SeriesInstanceUID, where the CT holds several.
            device: ``auto``, ``cpu`` or ``cuda``.
            doubtful: ``drop`` or ``keep`` what the model does not trust.
            priority: ``low``, ``normal`` or ``high``.
            key: Idempotency-Key; the same key and CT give the same job again. A new one where
                there is none.

        Raises:
            IsletError: what the service refused with.
            EmptyInput: no file there.
        """
        given: dict[str, Sequence[str]] = {"structures": structures, "outputs": outputs}
        words = {"model": model, "series": series, "device": device}
        words |= {"doubtful": doubtful, "priority": priority}
        given |= {name: [word] for name, word in words.items() if word}
        params = {name: [",".join(values)] for name, values in given.items() if values}
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        body = ct_body(ct)
        found = self._wire.ask("POST", "/v1/jobs", params, body, headers)
        return RemoteJob(self._wire, found["id"])

    def dicomweb(
        self, server: str, study: str, *, key: str | None = None, **fields: Any
    ) -> RemoteJob:
        """Have the service fetch a study of an archive that it knows by name.

        Args:
            server: name of the archive in the service's configuration.
            study: StudyInstanceUID.
            key: see :meth:`submit`.
            fields: ``series``, ``model``, ``structures``, ``outputs``, ``store``, ``priority``;
                ``None`` is left out.

        Raises:
            IsletError: what the service refused with.
        """
        asked = {"server": server, "study": study} | fields
        body = {name: value for name, value in asked.items() if value is not None}
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        found = self._wire.ask("POST", "/v1/dicomweb", headers=headers, json=body)
        return RemoteJob(self._wire, found["id"])

    def job(self, number: str) -> RemoteJob:
        """A job by its id; nothing is asked yet."""
        return RemoteJob(self._wire, number)

    def jobs(self, state: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """The newest jobs of this token's owner, each as :meth:`RemoteJob.status` gives it."""
        params = {"limit": [str(limit)]} | ({"state": [state]} if state else {})
        jobs: list[dict[str, Any]] = self._wire.ask("GET", "/v1/jobs", params)["jobs"]
        return jobs

    def models(self) -> dict[str, Any]:
        """The name of the default model, and every model with its versions and aliases."""
        models: dict[str, Any] = self._wire.ask("GET", "/v1/models")
        return models

    def publish(
        self, onnx: Path, manifest: Path | None = None, aliases: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Give the service a model; takes the role admin. Not tried again once it was sent.

        Args:
            onnx: the model.
            manifest: JSON file beside it, where the model does not describe itself.
            aliases: that will name it; the service's default where there is none.

        Returns:
            What the service says of the new version: its ``reference`` and more.

        Raises:
            IsletError: what the service refused with.
        """
        fields = {"alias": list(aliases)}
        if manifest is not None:
            fields["manifest"] = [manifest.read_text()]
        body = FormBody({"model": [onnx]}, fields)
        made: dict[str, Any] = self._wire.ask("POST", "/v1/models", body=body, repeatable=False)
        return made

    def point(self, name: str, alias: str, version: int) -> dict[str, Any]:
        """Move or make an alias of a model; takes the role admin."""
        path = f"/v1/models/{quote(name, safe='')}/aliases/{quote(alias, safe='')}"
        made: dict[str, Any] = self._wire.ask("PUT", path, json={"version": version})
        return made


class RemoteJob:
    """A job of a service.

    Attributes:
        id: its id.
    """

    def __init__(self, wire: Wire, number: str) -> None:
        if not number.isalnum():
            raise BadParameter(f"{number[:64]!r} is no id of a job.", job=number[:64])
        self._wire = wire
        self.id = number
        self._path = f"/v1/jobs/{number}"

    def status(self) -> dict[str, Any]:
        """State, place in the queue, step and the rest, as ``GET /v1/jobs/{id}`` gives it."""
        found: dict[str, Any] = self._wire.ask("GET", self._path)
        return found

    def events(self) -> Iterator[dict[str, Any]]:
        """The status whenever it changes, the last one once the job has ended.

        A connection that is lost is made again.

        Raises:
            IsletError: what the service refused with.
            ServiceFailed: no answer within the patience.
        """
        pauses = self._wire.pauses()
        while True:
            try:
                with self._wire.stream(f"{self._path}/events", "text/event-stream") as answer:
                    for found in _events(answer):
                        pauses.reset()
                        yield found
                        if found["state"] in _ENDED:
                            return
            except httpx.TransportError as error:
                problem = f"{_LOST} ({type(error).__name__})"
            else:
                problem = _LOST
            pauses.next(ServiceFailed(f"Job {self.id}: {problem}; ask for it again later."))

    def wait(self, progress: Progress | None = None) -> dict[str, Any]:
        """The job's status once it is done.

        Args:
            progress: told of every step; raising in it stops the wait, not the job.

        Raises:
            IsletError: what the job ended with; ``Cancelled`` where it was cancelled.
            ServiceFailed: no answer within the patience.
        """
        found: dict[str, Any] = {}
        for found in self.events():
            if progress is not None and found["state"] not in _ENDED:
                progress(found["step"] or found["state"], found["part"] or 0.0)
        if found["state"] == "cancelled":
            raise Cancelled(f"Job {self.id} was cancelled.", job=self.id)
        if found["state"] == "failed":
            raise error_of(found["error"] or {})
        return found

    def result(self, out: Path) -> Result:
        """Fetch the result and unpack it into a folder, each file whole or not at all.

        Raises:
            IsletError: ``JobUnfinished``, or what the job ended with.
            TruncatedFile: what arrived is no result.
        """
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out) as packed:

            def once() -> None:
                packed.seek(0)
                packed.truncate()
                with self._wire.stream(f"{self._path}/result", "application/zip") as answer:
                    for chunk in answer.iter_bytes():
                        packed.write(chunk)

            self._wire.patiently(once)
            files = tuple(_unpack(packed, out))
        report = json.loads((out / _REPORT).read_bytes())
        return Result(out, files, report)

    def cancel(self) -> None:
        """Stop the job where it still waits or runs."""
        if self.status()["state"] not in _ENDED:
            self._wire.ask("DELETE", self._path)

    def forget(self) -> None:
        """Stop the job where it still waits or runs; once it has ended, remove all of it."""
        self._wire.ask("DELETE", self._path)


def _events(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    """The JSON of each server-sent event."""
    data: list[str] = []
    for line in answer.iter_lines():
        name, _, value = line.partition(":")
        if name == "data":
            data.append(value.removeprefix(" "))
        elif not line and data:
            found = json.loads("\n".join(data))
            data = []
            if isinstance(found, dict) and "state" in found:
                yield found


def _unpack(packed: IO[bytes], out: Path) -> Iterator[Path]:
    try:
        with zipfile.ZipFile(packed) as archive:
            for name in archive.namelist():
                # The service is another machine: its names stay in the folder.
                if Path(name).name != name or name.startswith("."):
                    raise TruncatedFile("The result names a file outside its folder; not unpacked.")
                write_whole(out / name, archive.read(name))
                yield out / name
    except zipfile.BadZipFile as error:
        raise TruncatedFile("The result did not arrive whole; fetch it again.") from error
