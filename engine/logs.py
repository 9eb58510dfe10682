"""Logging: ids, counts and durations; never content, never keys.

A service that has configured structlog gets structlog events; one that has not gets the same through the standard
library's logging, once that has a handler: by default nothing is printed. Nothing is configured here, and structlog,
which takes longer to import than the rest of turnlog, is not imported before somebody uses it.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Any, Final

__all__ = ("Log",)

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Log:
    """A named logger."""

    def __init__(self, name: str) -> None:
        self._name = name

    def debug(self, event: str, **values: Any) -> None:
        """Log a step that interests those who debug turnlog."""
        self._say("debug", event, values)

    def info(self, event: str, **values: Any) -> None:
        """Log something that happened as it should."""
        self._say("info", event, values)

    def warning(self, event: str, **values: Any) -> None:
        """Log something that an operator should know."""
        self._say("warning", event, values)

    def _say(self, level: str, event: str, values: dict[str, Any]) -> None:
        # Logs that cannot be written are their service's trouble; no turn and no lease may end by it.
        with suppress(Exception):
            self._pass_on(level, event, values)

    def _pass_on(self, level: str, event: str, values: dict[str, Any]) -> None:
        structlog = sys.modules.get("structlog")
        if structlog is not None and structlog.is_configured():
            getattr(structlog.get_logger(self._name), level)(event, **values)
            return
        logger = logging.getLogger(self._name)
        # Without a handler, logging would print warnings by one of its own.
        if logger.isEnabledFor(_LEVELS[level]) and logger.hasHandlers():
            said = " ".join(f"{key}={value}" for key, value in values.items())
            logger.log(_LEVELS[level], "%s %s", event, said)
