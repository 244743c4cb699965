"""DICOM of all depths of bits, and sets of files that are more, less or other than one series."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.uid import MediaStorageDirectoryStorage, SegmentationStorage

from benchmarks.trials.forged.case import LIMITS, Answer, Case
from benchmarks.trials.forged.dicom import FAMILY
from benchmarks.trials.forged.series import SERIES, SERIES_UID, SPACING, STORED, write_classic


def cases() -> Iterator[Case]:
    """Of bits and of sets of files."""
    yield from _bits()
    yield from _sets()


def _bits() -> Iterator[Case]:
    """Pixels of 1 to 32 bits, with a sign and without, alone in their words or not."""
    rng = np.random.default_rng(7)
    for bits in (1, 2, 7, 8, 10, 12, 15, 16, 17, 24, 31, 32):
        values = rng.integers(0, 2**bits, STORED.shape, np.int64)
        yield _of_bits(f"{bits} bits", values, bits, 16 if bits <= 16 else 32)
    for bits in (2, 8, 12, 13, 16, 24, 32):
        values = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), STORED.shape, np.int64)
        name = f"{bits} bits with a sign"
        yield _of_bits(name, values, bits, 16 if bits <= 16 else 32, signed=True)
    narrow = rng.integers(0, 2**12, STORED.shape, np.int64)
    below = rng.integers(-(2**11), 2**11, STORED.shape, np.int64)
    yield _of_bits("8 bits in bytes", narrow % 256, 8, 8)
    yield _of_bits("overlay bits above the pixel", narrow, 12, 16, above=0xA000)
    yield _of_bits("a sign that is not carried on", below, 12, 16, signed=True, carried=False)
    yield _of_bits("pixels in the high bits", narrow, 12, 16, high=15)
    yield _of_bits("signed pixels in the high bits", below, 12, 16, signed=True, high=15)
    yield _of_bits("a highest bit below those stored", narrow, 16, 16, high=11)


def _of_bits(
    name: str,
    values: NDArray[np.int64],
    stored: int,
    allocated: int,
    signed: bool = False,
    high: int | None = None,
    above: int = 0,
    carried: bool = True,
) -> Case:
    """A series of values that fill ``stored`` bits of ``allocated``."""
    high = stored - 1 if high is None else high
    shift = max(0, high + 1 - stored)
    cells = values << shift
    if not carried or shift:
        cells &= ((1 << stored) - 1) << shift
    cells = (cells | above) & ((1 << allocated) - 1)
    data = cells.astype(f"<u{allocated // 8}")
    hu = (float(values.min()) - 1024, float(values.max()) - 1024)
    fits = hu[0] >= -32768 and hu[1] <= 32767
    notes = () if fits or allocated > 16 else ("beyond 16 bits",)
    if allocated > 16:
        notes = ("beyond 16 bits",)
    return Case(
        f"{FAMILY}: {name}",
        FAMILY,
        partial(_write_bits, data=data, stored=stored, high=high, signed=signed),
        "unsupported_format" if shift > 0 else Answer(STORED.shape, SPACING, hu, notes),
    )


def _write_bits(
    folder: Path, data: NDArray[np.unsignedinteger], stored: int, high: int, signed: bool
) -> Path:
    def spoil(ds: Dataset, index: int) -> None:
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = data.itemsize * 8, stored, high
        ds.PixelRepresentation = int(signed)
        ds.PixelData = data[index].tobytes()
        ds["PixelData"].VR = "OW"

    write_classic(folder, spoil)
    return folder


def _sets() -> Iterator[Case]:
    """What lies beside a series, or instead of it."""
    left_out = ("other DICOM files",)
    beside = Answer(STORED.shape, SPACING, SERIES.hu, left_out)
    sets: dict[str, tuple[Callable[[list[Path]], object], str | Answer]] = {
        "one slice": (partial(_first, count=1), "bad_shape"),
        "two slices": (partial(_first, count=2), Answer((2, 8, 10), SPACING)),
        "no file": (partial(_first, count=0), "empty_input"),
        "a slice missing": (lambda files: files[2].unlink(), "missing_slices"),
        "every file twice": (_twice, "duplicate_slices"),
        "two series": (_second_series, "several_series"),
        "a segmentation besides": (partial(_other, change=_as_segmentation), beside),
        "a localizer besides": (partial(_other, change=_as_localizer), beside),
        "a directory besides": (partial(_other, change=_as_directory), SERIES),
        "files of nothing": (lambda files: [f.write_bytes(b"") for f in files], "empty_input"),
        "a file of nothing besides": (partial(_text, data=b""), SERIES),
        "a text besides": (partial(_text, data=b"text" * 100), SERIES),
        "300 texts besides": (partial(_text, data=b"text" * 100, count=300), SERIES),
        "texts alone": (partial(_text, data=b"text" * 100, only=True), "unsupported_format"),
        "folders in folders": (_moved_down, SERIES),
        "a link out of the folder": (_link_out, SERIES),
        "a link in a circle": (_link_round, SERIES),
        "a link to nothing": (_link_nowhere, SERIES),
        "a file too many": (
            partial(_text, data=b"x", count=LIMITS.max_files + 1 - len(STORED)),
            "input_too_large",
        ),
    }
    for name, (change, expected) in sets.items():
        write = partial(_changed, change=change)
        yield Case(f"{FAMILY}: {name}", FAMILY, write, expected)
    many = Answer((600, 4, 4), SPACING)
    yield Case(f"{FAMILY}: 600 slices", FAMILY, partial(_long, slices=600), many)


def _changed(folder: Path, change: Callable[[list[Path]], object]) -> Path:
    series = folder / "series"
    change(write_classic(series))
    return series


def _first(files: list[Path], count: int) -> None:
    for path in files[count:]:
        path.unlink()


def _twice(files: list[Path]) -> None:
    for path in files:
        path.with_suffix(".copy").write_bytes(path.read_bytes())


def _second_series(files: list[Path]) -> None:
    for path in files:
        ds = dcmread(path)
        ds.SeriesInstanceUID = SERIES_UID + "9"
        ds.save_as(path.with_suffix(".second"))


def _other(files: list[Path], change: Callable[[Dataset], None]) -> None:
    ds = dcmread(files[0])
    change(ds)
    ds.save_as(files[0].with_suffix(".other"))


def _as_segmentation(ds: Dataset) -> None:
    ds.SOPClassUID, ds.Modality = SegmentationStorage, "SEG"
    ds.file_meta.MediaStorageSOPClassUID, ds.SeriesInstanceUID = SegmentationStorage, "2.25.5"


def _as_localizer(ds: Dataset) -> None:
    ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def _as_directory(ds: Dataset) -> None:
    ds.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage


def _text(files: list[Path], data: bytes, count: int = 1, only: bool = False) -> None:
    for number in range(count):
        files[0].with_name(f"{number}.txt").write_bytes(data)
    if only:
        _first(files, 0)


def _moved_down(files: list[Path]) -> None:
    for number, path in enumerate(files):
        place = path.parent.joinpath(*["d"] * number, path.name)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)


def _link_out(files: list[Path]) -> None:
    outside = files[0].parent.parent / "outside"
    outside.write_bytes(files[0].read_bytes())
    (files[0].parent / "link").symlink_to(outside)


def _link_round(files: list[Path]) -> None:
    (files[0].parent / "round").symlink_to(files[0].parent, target_is_directory=True)


def _link_nowhere(files: list[Path]) -> None:
    (files[0].parent / "nowhere").symlink_to("nothing")


def _long(folder: Path, slices: int) -> Path:
    write_classic(folder, stored=np.zeros((slices, 4, 4), np.uint16))
    return folder
