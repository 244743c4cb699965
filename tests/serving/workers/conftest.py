"""The fixtures of the jobs, for those who do them."""

from tests.serving.jobs.conftest import (  # noqa: F401
    database,
    jobs,
    published,
    settings,
    sockets,
    submit,
)
