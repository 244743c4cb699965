"""The running service is asked whatever its own document allows, and what it does not allow."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from models.store import Store
from serving.guard.identity import Role
from serving.process import free_port, running, serve_command, serve_environment
from serving.statuses import codes
from tests.serving.guard.apps import bearer, token
from tests.serving.tiny_model import publish

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

# Every status and content type is documented, every answer fits its schema, nothing fails; what
# does not fit the document is refused, and so is who has no token.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
    "use_after_free",
)


def test_no_request_gets_an_answer_that_the_document_does_not_promise(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", behind=())
    publish(store, tmp_path)
    boss = bearer(token(tmp_path, Role.ADMIN))
    environment = os.environ | {
        "ISLET_STORE": str(store.root),
        "ISLET_SPOOL": str(tmp_path / "spool"),
        "ISLET_TOKENS": str(tmp_path / "tokens.toml"),
        # Nothing here is a CT, so nothing takes long; the queue must not be what refuses it.
        "ISLET_QUEUE": "10000",
        "ISLET_MAX_UPLOAD_MB": "1",
    }
    url = f"http://127.0.0.1:{(port := free_port())}"
    log = tmp_path / "log"
    with (
        log.open("wb") as output,
        running(serve_command("127.0.0.1", port), serve_environment(environment), url, output),
    ):
        asked = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/v1/openapi.json"),
                *("--header", f"Authorization: {boss['Authorization']}"),
                *("--phases", "coverage,fuzzing,stateful", "--max-examples", "5"),
                *("--generation-deterministic", "--checks", ",".join(CHECKS)),
                *("--request-timeout", "20", "--no-color"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        assert asked.returncode == 0, asked.stdout + asked.stderr
        document = httpx.get(f"{url}/v1/openapi.json", headers=boss).json()
    # All but the one that gives the document itself.
    assert f"Tested: {sum(map(len, document['paths'].values())) - 1}" in asked.stdout
    assert int(re.search(r"(\d+) generated", asked.stdout)[1]) > 300
    assert document["security"] == [{"token": []}]
    assert "internal error" not in log.read_text()
    promised = {
        int(status)
        for path in document["paths"].values()
        for operation in path.values()
        for status in operation["responses"]
        if status >= "400"
    }
    assert promised == set(codes().values()) - {405}
