"""What a run shows on a terminal: one line per finished asset, and the progress of long ones."""

import logging
import sys
from typing import Any

from dagster import DagsterEventType, InitLoggerContext, logger


class _TerminalHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        line = _line(record)
        if line:
            print(line, file=sys.stdout, flush=True)


def _line(record: logging.LogRecord) -> str | None:
    meta: dict[str, Any] = getattr(record, "dagster_meta", {})
    event = meta.get("dagster_event")
    if event is None:
        return (
            f"    {meta.get('orig_message') or record.getMessage()}"
            if record.levelno >= logging.INFO
            else None
        )
    if event.event_type == DagsterEventType.ASSET_MATERIALIZATION:
        return _materialized(event.event_specific_data.materialization)
    if event.event_type == DagsterEventType.ASSET_CHECK_EVALUATION:
        return _failed_check(event.event_specific_data)
    return None


def _materialized(materialization: Any) -> str:
    name = materialization.asset_key.to_user_string()
    if materialization.partition:
        name += f"[{materialization.partition}]"
    metadata = materialization.metadata
    if not metadata["published"].value:
        return f"  = {name:<44} unchanged"
    return f"  ✓ {name:<44} {metadata['wall_seconds'].value:7.1f} s"


def _failed_check(evaluation: Any) -> str | None:
    if evaluation.passed:
        return None
    name = f"{evaluation.asset_key.to_user_string()}: {evaluation.check_name}"
    return f"  ! {name} failed: {evaluation.description}"


@logger(config_schema=None, description="One line per finished asset, without time stamps and run ids.")
def terminal_logger(_: InitLoggerContext) -> logging.Logger:
    """The logger of `make demo`."""
    target = logging.Logger("terminal", logging.DEBUG)  # Dagster logs its events as DEBUG
    target.addHandler(_TerminalHandler())
    return target
