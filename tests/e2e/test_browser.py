"""The page in a real browser, over the real service: what is drawn is what was found."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import shutil
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from imaging.writers.nifti import write_nifti
from models.labels import BY_NAME
from models.store import Store
from serving.guard.identity import Role
from serving.guard.tokens import Token, changed_tokens, new_secret, sha256_of
from serving.process import free_port, running, serve_command, serve_environment
from serving.ui.page import BUILT
from tests.imaging.dicom_files import Grid, write_series
from tests.serving.tiny_model import boxes_ct, publish

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed"
    ),
    pytest.mark.skipif(
        not (BUILT / "index.html").is_file(), reason="the page is not built; `make ui` builds it"
    ),
]

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-dev-shm-usage",
    "--force-device-scale-factor=1",
    "--window-size=1100,700",
)
# Colours are mixed with the CT's at a pixel's edge; in a voxel's middle they are the mask's own.
COLOUR_TOLERANCE = 14
CHROMA = 40

Result = TypeVar("Result")


@dataclass(frozen=True)
class Served:
    url: str
    token: str
    folder: Path

    def get(self, path: str) -> bytes:
        request = urllib.request.Request(
            self.url + path, headers={"Authorization": f"Bearer {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            found: bytes = response.read()
        return found

    def newest(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get("/v1/jobs"))["jobs"][0]
        return found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("browser")
    store = Store(folder / "store", behind=())
    publish(store, folder)
    write_nifti(boxes_ct()[0], folder / "ct.nii.gz")
    volume, _ = boxes_ct()
    grid = Grid(step=2.5, rows=0.8, columns=0.9)
    write_series(folder / "series", (volume.array + 1024).astype(np.uint16), grid)
    (folder / "letter.txt").write_text("Dear colleague, this is no CT. " * 40)
    secret = new_secret()
    with changed_tokens(folder / "tokens.toml") as tokens:
        roles = frozenset({Role.SEGMENT})
        tokens.append(Token("ward-3", roles, sha256_of(secret), datetime.now(UTC)))
    environment = os.environ | {
        "ISLET_STORE": str(store.root),
        "ISLET_SPOOL": str(folder / "spool"),
        "ISLET_TOKENS": str(folder / "tokens.toml"),
    }
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = serve_command("127.0.0.1", port)
    with (
        (folder / "log").open("wb") as log,
        running(command, serve_environment(environment), url, log),
    ):
        yield Served(url, secret, folder)


@dataclass(frozen=True)
class Page:
    """The page as somebody uses it."""

    driver: webdriver.Chrome
    downloads: Path

    def element(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def until(self, met: Callable[[], Result], seconds: float = 25) -> Result:
        return WebDriverWait(self.driver, seconds, 0.05).until(lambda _: met())

    def press(self, selector: str) -> None:
        """Click what may lie under its own label."""
        self.driver.execute_script("arguments[0].click()", self.element(selector))

    def drop(self, path: Path) -> None:
        """Drag a file or a folder in, as the browser gets it from the desktop."""
        box = self.element("#drop").rect
        at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + 20}
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            event = {"type": kind, "data": data, **at}
            self.driver.execute_cdp_cmd("Input.dispatchDragEvent", event)

    def segment(self) -> None:
        self.until(lambda: self.element("#send").is_enabled())
        self.press("#send")
        self.until(lambda: self.element("#result").is_displayed() and self.idle())

    def idle(self) -> bool:
        return not self.element("#run").is_displayed() and self.element("#send").is_enabled()

    def slide(self, name: str, value: float) -> None:
        script = """
            const label = [...document.querySelectorAll("label.slide")].find(
                (found) => found.textContent.trim().startsWith(arguments[0]));
            const input = label.querySelector("input");
            input.value = arguments[1];
            input.dispatchEvent(new Event("input"));
        """
        self.driver.execute_script(script, name, value)

    def stage(self) -> np.ndarray:
        """Pixels of the pictures (rows, columns, RGB), once they stay the same."""
        seen = b""
        while (now := self.element("#stage").screenshot_as_png) != seen:
            seen = now
            time.sleep(0.15)
        with Image.open(io.BytesIO(seen)) as image:
            return np.asarray(image.convert("RGB")).astype(int)


@pytest.fixture(scope="module")
def page(served: Served) -> Iterator[Page]:
    assert CHROMIUM
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    downloads = served.folder / "downloads"
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    with contextlib.ExitStack() as stack:
        stack.callback(driver.quit)
        allowed = {"behavior": "allow", "downloadPath": str(downloads)}
        driver.execute_cdp_cmd("Browser.setDownloadBehavior", allowed)
        driver.get(served.url)
        made = Page(driver, downloads)
        made.until(lambda: made.element("#token-dialog").is_displayed())
        made.element("#token-value").send_keys(served.token)
        made.press("#token-form button[value=use]")
        made.until(lambda: made.element("#model option"))
        yield made


@pytest.fixture(scope="module")
def shown(page: Page, served: Served) -> np.ndarray:
    """The label map (Z, Y, X) of the job that the page shows, from the feet up, masks opaque."""
    page.drop(served.folder / "ct.nii.gz")
    page.segment()
    page.slide("Masks", 100)
    page.press("#crosshair")
    image = nib.Nifti1Image.from_bytes(_unpacked(served, "labels.nii.gz"))
    # Read by nibabel: axes to the left, to the back and to the head.
    lps = nib.orientations.axcodes2ornt(("L", "P", "S"))
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), lps)
    array: np.ndarray = nib.orientations.apply_orientation(np.asarray(image.dataobj), turn)
    return array.transpose(2, 1, 0)


def _unpacked(served: Served, name: str) -> bytes:
    return gzip.decompress(served.get(f"/v1/jobs/{served.newest()['id']}/result/{name}"))


def expected_plane(labels: np.ndarray, view: str, at: int) -> np.ndarray:
    """The labels of a plane as radiologists look at it (rows down, columns to the right)."""
    if view == "Axial":
        return labels[at]
    if view == "Coronal":
        return labels[::-1, at]
    return labels[::-1, :, at]


def check_plane(picture: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> None:
    """Every voxel of a plane has its structure's colour in its middle, or no colour at all."""
    # Everything in the image is lighter than the paper around it.
    inside = picture.sum(axis=-1) > 60
    rows = np.flatnonzero(inside.mean(axis=1) > 0.5 * inside.mean(axis=1).max())
    columns = np.flatnonzero(inside.mean(axis=0) > 0.5 * inside.mean(axis=0).max())
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    colours = {BY_NAME[name].value: BY_NAME[name].colour for name in names}
    for (row, column), value in np.ndenumerate(labels):
        y = rows[0] + int((row + 0.5) * height / labels.shape[0])
        x = columns[0] + int((column + 0.5) * width / labels.shape[1])
        pixel = picture[y, x]
        if value in colours:
            assert np.abs(pixel - colours[value]).max() <= COLOUR_TOLERANCE, (row, column, pixel)
        else:
            assert pixel.max() - pixel.min() < CHROMA, (row, column, pixel)


# Slices from the feet, from the back and from the left, and the index of the label map they show.
@pytest.mark.parametrize(
    ("view", "slide", "at"),
    [
        ("Axial", 2, 1),
        ("Axial", 8, 7),
        ("Axial", 12, 11),
        ("Coronal", 30, 10),
        ("Coronal", 10, 30),
        ("Sagittal", 35, 13),
        ("Sagittal", 10, 38),
    ],
)
def test_masks_are_drawn_where_they_are(
    page: Page, shown: np.ndarray, view: str, slide: int, at: int
) -> None:
    page.press(f"#views input[value={view}]")
    page.slide(view, slide)
    plane = expected_plane(shown, view, at)
    assert len(np.unique(plane)) > 1
    check_plane(page.stage(), plane, ("pancreas", "pancreas_tumor", "kidney"))


def test_a_structure_that_is_switched_off_is_not_drawn(page: Page, shown: np.ndarray) -> None:
    page.press("#views input[value=Axial]")
    page.slide("Axial", 8)
    rows = page.driver.find_elements(By.CSS_SELECTOR, "#legend label")
    kidney = next(row for row in rows if row.text.startswith("kidney"))
    kidney.click()
    check_plane(page.stage(), shown[7], ("pancreas", "pancreas_tumor"))
    kidney.click()
    check_plane(page.stage(), shown[7], ("pancreas", "pancreas_tumor", "kidney"))


def test_what_was_found_is_drawn_in_three_dimensions(page: Page, shown: np.ndarray) -> None:
    page.press("#views input[value='3D']")
    picture = page.stage()
    blue = (picture[..., 2] - picture[..., 0] > CHROMA).sum()
    orange = (picture[..., 0] - picture[..., 2] > CHROMA).sum()
    assert blue > 500
    assert orange > 500


def test_the_volumes_are_the_reports(page: Page, shown: np.ndarray, served: Served) -> None:
    report = json.loads(served.get(f"/v1/jobs/{served.newest()['id']}/result/report.json"))
    rows = page.driver.find_elements(By.CSS_SELECTOR, "#volumes tr")
    found = {row.get_attribute("data-mask"): row.text.split()[-1] for row in rows}
    assert found == {name: f"{m['volume_ml']:.1f}" for name, m in report["masks"].items()}
    warnings = page.element("#warnings").text
    for sentence in report["warnings"]:
        assert sentence in warnings
    assert "kidney reaches the" in warnings


def test_files_are_saved_as_they_are(page: Page, shown: np.ndarray, served: Served) -> None:
    job = served.newest()
    names = [button["name"] for button in job["files"]]
    saved = [page.downloads / "kidney.nii.gz", page.downloads / f"islet-{job['id'][:8]}.zip"]
    for path in saved:
        page.press(f"#downloads button[data-file='{path.name}']")
        page.until(path.is_file)
    one = served.get(f"/v1/jobs/{job['id']}/result/kidney.nii.gz")
    assert saved[0].read_bytes() == one
    with zipfile.ZipFile(saved[1]) as archive:
        assert archive.namelist() == names
        assert archive.read("kidney.nii.gz") == one


def test_a_folder_of_dicom_is_drawn_from_the_ct_that_comes_back(
    page: Page, shown: np.ndarray, served: Served
) -> None:
    page.drop(served.folder / "series")
    page.until(lambda: "20 files" in page.element("#chosen").text)
    page.press("#outputs input[value=seg]")
    page.segment()
    names = [file["name"] for file in served.newest()["files"]]
    assert {"segmentation.dcm", "ct.nii.gz", "preview.png"} <= set(names)
    page.press("#views input[value=Axial]")
    page.slide("Axial", 8)
    check_plane(page.stage(), shown[7], ("pancreas", "pancreas_tumor", "kidney"))


def test_a_job_is_opened_again_in_a_new_tab(page: Page, shown: np.ndarray, served: Served) -> None:
    page.driver.refresh()
    page.until(lambda: page.element("#jobs .row"))
    page.press("#jobs .row")
    page.until(lambda: page.element("#result").is_displayed())
    page.until(lambda: "filled" in (page.element("#stage").get_attribute("class") or ""))
    page.press("#crosshair")
    page.slide("Masks", 100)
    page.press("#views input[value=Axial]")
    page.slide("Axial", 8)
    check_plane(page.stage(), shown[7], ("pancreas", "pancreas_tumor", "kidney"))


def test_a_refusal_is_the_services_own_sentence(page: Page, served: Served) -> None:
    page.drop(served.folder / "letter.txt")
    page.until(lambda: page.element("#send").is_enabled())
    page.press("#send")
    page.until(lambda: page.element("#error").is_displayed())
    page.until(lambda: served.newest()["state"] == "failed")
    assert page.element("#error").text == served.newest()["error"]["message"]


def test_the_page_asks_nobody_else_and_breaks_no_policy(page: Page, served: Served) -> None:
    asked = [
        json.loads(entry["message"])["message"] for entry in page.driver.get_log("performance")
    ]
    urls = [
        m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"
    ]
    assert any(url.startswith(f"{served.url}/ui/main-") for url in urls)
    outside = [u for u in urls if not u.startswith((served.url, "data:", "blob:"))]
    assert outside == []
    said = [entry["message"] for entry in page.driver.get_log("browser")]
    assert [line for line in said if "Content Security Policy" in line or "Uncaught" in line] == []
