"""A DIMSE application that takes objects: C-STORE as the one who sends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.uid import UID

from imaging.errors import PacsError
from serving.pacs.config import Peer

# PS3.4 B.2.3: these say that the object is stored, with something to note.
_STORED = frozenset({0x0000, 0xB000, 0xB006, 0xB007})


def send(
    peer: Peer, aet: str, files: Mapping[str, Path], progress: Callable[[str, float], None]
) -> list[str]:
    """Send DICOM files over one association.

    Args:
        peer: who gets them.
        aet: title that Islet calls itself.
        files: by the name that an error calls them.
        progress: told of ``store``; raising in it stops the work.

    Returns:
        SOPInstanceUID of each.

    Raises:
        PacsError: no association, or some files were not taken; its details name them and those
            that were.
    """
    association = _associate(peer, aet, files.values())
    stored: list[str] = []
    failed: list[dict[str, str]] = []
    try:
        for number, (name, path) in enumerate(files.items()):
            progress("store", number / len(files))
            dataset = dcmread(path)
            reason = _store(association, dataset)
            if reason is None:
                stored.append(str(dataset.SOPInstanceUID))
            else:
                failed.append({"file": name, "reason": reason})
    except BaseException:
        association.abort()
        raise
    association.release()
    progress("store", 1.0)
    if failed:
        told = ", ".join(f"{f['file']} ({f['reason']})" for f in failed)
        raise PacsError(
            f"{peer.name} did not take {len(failed)} of {len(files)} objects: {told}.",
            server=peer.name,
            failed=failed,
            stored=stored,
        )
    return stored


def _associate(peer: Peer, aet: str, files: Iterable[Path]) -> Any:
    # The optional package of DIMSE alone.
    from pynetdicom import AE

    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    entity = AE(aet)
    entity.connection_timeout = entity.acse_timeout = peer.timeout_s
    entity.dimse_timeout = entity.network_timeout = peer.timeout_s
    for kind, syntax in sorted({_context(path) for path in files}):
        entity.add_requested_context(kind, syntax)
    tls = None if peer.tls is None else (peer.tls.client(), peer.host)
    association = entity.associate(peer.host, peer.port, ae_title=peer.aet, tls_args=tls)
    if not association.is_established:
        what = "refuses the association" if association.is_rejected else "does not answer"
        raise PacsError(
            f"{peer.name} {what}; check its title, host and port, and that it knows {aet}.",
            server=peer.name,
        )
    return association


def _context(path: Path) -> tuple[UID, UID]:
    header = dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])
    return header.SOPClassUID, header.file_meta.TransferSyntaxUID


def _store(association: Any, dataset: Any) -> str | None:
    """Why the peer did not take an object, or ``None``."""
    try:
        answer = association.send_c_store(dataset)
    except ValueError:
        return "it takes no such objects"
    except RuntimeError:
        return "the association is gone"
    if "Status" not in answer:
        return "no answer in time"
    return None if answer.Status in _STORED else f"status 0x{answer.Status:04X}"
