"""The BentoML service: the HTTP interface under ``/v1``, health and metrics beside it.

``bentoml serve serving.service:Islet``; settings are in ``serving.settings``.
"""

from __future__ import annotations

import logging

import bentoml

from imaging.errors import IsletError
from models.store import default_store
from serving.api import Desk, Door
from serving.metrics import Metrics
from serving.settings import Settings

logger = logging.getLogger("islet.serving")

# BentoML would cut a request off after a minute; a long CT on a slow machine takes more, and the
# desk bounds what waits.
_TIMEOUT_S = 3600

settings = Settings.from_environment()
door = Door()


@bentoml.service(name="islet", workers=settings.workers, traffic={"timeout": _TIMEOUT_S})
@bentoml.asgi_app(door, path="/v1")
class Islet:
    """One worker."""

    def __init__(self) -> None:
        self._desk = Desk(settings, default_store(), Metrics())
        self._loaded = False
        door.desk = self._desk
        self.__is_ready__()

    def __is_ready__(self) -> bool:
        """Whether the default model is loaded; tried again at each question until it is."""
        if not self._loaded:
            try:
                self._desk.load_default()
            except IsletError as error:
                logger.error("not ready: %s: %s", error.code, error.message)
            else:
                self._loaded = True
        return self._loaded
