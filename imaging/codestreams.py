"""How large a compressed DICOM frame says it is, read before any codec sees it.

A codec believes the codestream, not the DICOM header around it: a kilobyte of JPEG 2000 may ask
for gigabytes, and JPEG-LS of another width decodes to the wrong pixels without a word.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import UID, RLELossless

JPEG_2000 = b"\xff\x4f\xff\x51"
JPEG = b"\xff\xd8"
# Start-of-frame markers of JPEG (ISO 10918-1 table B.1) and JPEG-LS (ISO 14495-1 C.2.2).
FRAME_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
# No lossless codec makes noise much larger than it was; run-length coding adds less than 1 %.
LARGEST_GROWTH = 2
HEADER_ROOM = 65536


def check_frames(header: Dataset, syntax: UID, frames: int) -> None:
    """Compare every compressed frame with the header's rows and columns.

    Raises:
        ValueError: a frame of another size, or of far more bytes than its pixels need.
    """
    size = (int(header.Rows), int(header.Columns))
    most = LARGEST_GROWTH * size[0] * size[1] * int(header.BitsAllocated) // 8 + HEADER_ROOM
    for data in _encoded(header, frames):
        if len(data) > most:
            raise ValueError(f"a frame of {size} pixels has {len(data)} bytes")
        if syntax != RLELossless and frame_size(data) != size:
            raise ValueError(f"a frame of {size} pixels holds an image of {frame_size(data)}")


def frame_size(data: bytes) -> tuple[int, int] | None:
    """Rows and columns of a JPEG, JPEG-LS or JPEG 2000 codestream; None where it says none."""
    if data.startswith(JPEG_2000):
        # After the marker: length 2, capabilities 2, then width, height, left and top, 4 each.
        width, height, left, top = (int.from_bytes(data[i : i + 4]) for i in range(8, 24, 4))
        return height - top, width - left
    place = len(JPEG)
    while data.startswith(JPEG) and data[place : place + 1] == b"\xff":
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4])
        if marker in FRAME_MARKERS:
            sides = data[place + 5 : place + 9]
            return int.from_bytes(sides[:2]), int.from_bytes(sides[2:])
        place += 1 if marker == 0xFF else 2 + length
    return None


def _encoded(header: Dataset, frames: int) -> Iterator[bytes]:
    offsets = header.get("ExtendedOffsetTable")
    extended = (offsets, header.ExtendedOffsetTableLengths) if offsets else None
    return generate_frames(header.PixelData, number_of_frames=frames, extended_offsets=extended)
