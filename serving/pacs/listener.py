"""The DIMSE listener: C-ECHO and C-STORE of CT images from the callers that are allowed."""

from __future__ import annotations

import logging
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    LegacyConvertedEnhancedCTImageStorage,
    RLELossless,
)

from imaging.dicom_headers import head_of
from imaging.errors import IsletError, ServiceFailed
from serving.jobs.jobs import Jobs
from serving.pacs.config import Listener, Pacs
from serving.pacs.reception import Reception
from serving.pacs.rules import load_rules
from serving.pacs.uids import check_uid
from serving.settings import Settings

logger = logging.getLogger("islet.pacs")

# CT alone: what Islet sends to an archive cannot come back in and go round.
CLASSES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
# Without loss, and readable by ``imaging``.
SYNTAXES = [
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    JPEGLosslessSV1,
    JPEGLossless,
    JPEGLSLossless,
    JPEG2000Lossless,
    RLELossless,
]
VERIFICATION = "1.2.840.10008.1.1"

# PS3.4 B.2.3.
_SUCCESS = 0x0000
_OUT_OF_RESOURCES = 0xA700
_CANNOT_UNDERSTAND = 0xC000

_LOOK_S = 0.25
# Of files that a broken association leaves half-written.
_STALE_S = 3600.0


@contextmanager
def listening(
    settings: Settings, pacs: Pacs, listener: Listener, aet: str, host: str, port: int
) -> Iterator[int]:
    """Take images in until the block ends; whole series become jobs.

    Args:
        settings: of the service whose workers do the jobs.
        pacs: where results go.
        listener: who may send, and what is asked for.
        aet: title that callers must call.
        host, port: to listen at; port 0 takes a free one.

    Yields:
        The port.

    Raises:
        ServiceFailed: the port is taken, or pynetdicom is not installed.
        BadParameter: the rules cannot be read.
    """
    jobs = Jobs(settings)
    reception = Reception(settings, pacs, listener, load_rules(settings.rules), jobs, aet)
    incoming = settings.spool / f"dimse-{socket.gethostname()}-{port}"
    stop = threading.Event()
    settling = threading.Thread(target=_settle, args=(reception, incoming, stop), daemon=True)
    try:
        with _temporary(incoming):
            server = _start(listener, reception, aet, host, port)
            settling.start()
            try:
                yield server.server_address[1]
            finally:
                server.shutdown()
                stop.set()
                settling.join()
                reception.close()
    finally:
        jobs.close()


def _start(listener: Listener, reception: Reception, aet: str, host: str, port: int) -> Any:
    try:
        from pynetdicom import AE, _config, evt
    except ImportError as error:
        raise ServiceFailed(
            "islet dimse needs pynetdicom: pip install 'islet-ct[dimse]'."
        ) from error
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    # An image goes to a file as it comes; memory does not grow with it.
    _config.STORE_RECV_CHUNKED_DATASET = True
    entity = AE(aet)
    entity.require_called_aet = True
    entity.require_calling_aet = list(listener.callers)
    entity.maximum_associations = listener.associations
    entity.add_supported_context(VERIFICATION)
    for kind in CLASSES:
        entity.add_supported_context(kind, SYNTAXES)
    handlers = [
        (evt.EVT_C_STORE, _stored, [reception]),
        (evt.EVT_PDU_RECV, _acknowledge),
        (evt.EVT_PDU_SENT, _acknowledge),
        (evt.EVT_RELEASED, _ended, [reception, True]),
        (evt.EVT_ABORTED, _ended, [reception, False]),
        (evt.EVT_CONN_CLOSE, _ended, [reception, False]),
        (evt.EVT_REJECTED, _rejected),
    ]
    tls = listener.tls.server() if listener.tls else None
    try:
        return entity.start_server(
            (host, port), block=False, ssl_context=tls, evt_handlers=handlers
        )
    except OSError as error:
        raise ServiceFailed(
            f"Port {port} of {host} cannot be listened at ({error.strerror}); is another listener "
            "running?",
            port=port,
        ) from error


def _acknowledge(event: Any) -> None:
    """Have what came acknowledged at once.

    A sender that gathers small packets, as most do, waits for it between a command and its image:
    40 ms for each image, a quarter of a minute for a CT.
    """
    with suppress(OSError, AttributeError):
        event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _stored(event: Any, reception: Reception) -> int:
    """Take one image in; the answer is a C-STORE status."""
    # Whatever the sender wrote must not end the association with half a series.
    try:
        series = _series_of(event.dataset_path)
        instance = check_uid("SOPInstanceUID", str(event.request.AffectedSOPInstanceUID))
        caller = event.assoc.requestor.ae_title.strip()
        taken = reception.take(caller, id(event.assoc), series, instance, event.dataset_path)
    except OSError as error:
        logger.error("an image could not be kept: %s", error.strerror)
        return _OUT_OF_RESOURCES
    except (IsletError, ValueError, AttributeError, EOFError):
        return _CANNOT_UNDERSTAND
    return _SUCCESS if taken else _OUT_OF_RESOURCES


def _series_of(path: Path) -> str:
    return check_uid("SeriesInstanceUID", str(head_of(path).SeriesInstanceUID))


def _ended(event: Any, reception: Reception, whole: bool) -> None:
    reception.closed(id(event.assoc), whole)


def _rejected(_: Any) -> None:
    logger.warning("an association was refused: the calling or the called title is not allowed")


def _settle(reception: Reception, incoming: Path, stop: threading.Event) -> None:
    while not stop.wait(_LOOK_S):
        try:
            reception.settle()
        except Exception as error:  # noqa: BLE001 - the edge of the thread
            # The next round tries again. The text stays out: it may quote a header.
            logger.error("series wait, the jobs cannot be written: %s", type(error).__name__)
        _sweep(incoming)


def _sweep(incoming: Path) -> None:
    for left in incoming.iterdir():
        # Most are moved while this looks at them.
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _STALE_S:
                left.unlink()


@contextmanager
def _temporary(folder: Path) -> Iterator[None]:
    """Have images arrive in a folder of the spool, where moving one is a rename."""
    # A killed listener at this port left it.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
        shutil.rmtree(folder, ignore_errors=True)
