"""A site's place: its name goes into folders, FLARE and aliases."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.home import Home
from federation.policy import Policy
from imaging.errors import BadParameter


def test_a_home_has_the_name_of_a_site(tmp_path: Path) -> None:
    home = Home("north-clinic", tmp_path, (tmp_path,), tmp_path, Policy())
    assert (home.device, home.threads) == ("auto", 1)


@pytest.mark.parametrize("name", ["North", "../c1", ""])
def test_any_other_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadParameter, match="is no name of a site"):
        Home(name, tmp_path, (tmp_path,), tmp_path, Policy())
