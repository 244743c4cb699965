"""How much the files of one DICOM input may need together, counted before anything parses them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

from imaging.errors import InputTooLarge
from imaging.limits import Limits

# How the items of sequences begin, little and big endian. Eight bytes make one, of which a parser
# makes a kilobyte.
_ITEM, _BIG_ITEM = b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00"
# Of an input, for each file there may be; an enhanced CT has some twenty a frame.
_ITEMS_A_FILE = 100
_PIECE = 2**16


class Allowance:
    """How much all files of an input together may still unpack to, and hold in sequences.

    Args:
        limits: of the input.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bytes = limits.max_unpacked_bytes
        self._items = self._most_items = limits.max_files * _ITEMS_A_FILE

    def take(self, path: Path, start: int, number: int, syntax: str) -> None:
        """Use up what a file's data set needs, before anything parses it.

        Args:
            path: of the file.
            start: where its data set begins.
            number: how messages shall name it.
            syntax: its transfer syntax.

        Raises:
            InputTooLarge: there is not so much left.
        """
        deflated = syntax == DeflatedExplicitVRLittleEndian
        item = _BIG_ITEM if syntax == ExplicitVRBigEndian else _ITEM
        for piece in _pieces(path, start, deflated):
            self._items -= piece.count(item)
            self._bytes -= len(piece) if deflated else 0
            if self._bytes < 0:
                raise InputTooLarge(
                    f"Up to DICOM file {number} the input inflates to more than "
                    f"{self._limits.max_unpacked_bytes} bytes; send less at once.",
                    file=number,
                    max_unpacked_bytes=self._limits.max_unpacked_bytes,
                )
            if self._items < 0:
                raise InputTooLarge(
                    f"Up to DICOM file {number} the input has more than {self._most_items} items "
                    "in sequences; send less at once.",
                    file=number,
                    max_items=self._most_items,
                )


def _pieces(path: Path, start: int, deflated: bool) -> Iterator[bytes]:
    """A data set, inflated where it is deflated, a mebibyte at a time at most."""
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    with path.open("rb") as file:
        file.seek(start)
        while piece := file.read(_PIECE if deflated else 2**20):
            if not deflated:
                yield piece
            while deflated and piece and not inflate.eof:
                yield inflate.decompress(piece, 2**20)
                piece = inflate.unconsumed_tail
