"""Owns the labels of a device as the text of a JSON object, made by the database: a list needs no second question."""

from typing import Any

from sqlalchemy import ColumnElement, Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


def labels_as_text() -> ColumnElement[str]:
    """In a query on `devices`: the labels of each; without any, None or `{}`."""
    return _Labels()


class _Labels(FunctionElement[str]):
    type = Text()
    inherit_cache = True
    name = "labels_of_device"


@compiles(_Labels, "sqlite")
def _labels_sqlite(element: _Labels, compiler: Any, **words: Any) -> str:
    del element, compiler, words
    return "(SELECT json_group_object(key, value) FROM labels WHERE labels.device_id = devices.id)"


@compiles(_Labels, "postgresql")
def _labels_postgresql(element: _Labels, compiler: Any, **words: Any) -> str:
    del element, compiler, words
    return "(SELECT CAST(json_object_agg(key, value) AS TEXT) FROM labels WHERE labels.device_id = devices.id)"
