"""A column of vectors: pgvector's type on PostgreSQL, on SQLite their bytes. A value is float32 as bytes."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

from sqlalchemy import LargeBinary
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.types import UserDefinedType

DIMENSIONS = 384


class Vector(UserDefinedType[bytes]):
    """pgvector's `vector(384)`; the driver knows it as text."""

    cache_ok = True

    def __init__(self, dimensions: int | str = DIMENSIONS) -> None:
        self.dimensions = int(dimensions)

    def get_col_spec(self, **_: Any) -> str:
        """As SQL writes it."""
        return f"VECTOR({self.dimensions})"

    def bind_processor(self, dialect: Any) -> Callable[[Any], Any]:  # noqa: ARG002  # SQLAlchemy's
        """Bytes to text."""

        def text(value: bytes | None) -> str | None:
            if value is None:
                return None
            return "[" + ",".join(f"{number:.7g}" for number in array("f", value)) + "]"

        return text

    def result_processor(self, dialect: Any, coltype: Any) -> Callable[[Any], Any]:  # noqa: ARG002
        """Text to bytes."""

        def value(text: str | None) -> bytes | None:
            if text is None:
                return None
            return array("f", map(float, text[1:-1].split(","))).tobytes()

        return value


# So that the type is known where a schema is read back from the database.
ischema_names["vector"] = Vector

EMBEDDING = LargeBinary().with_variant(Vector(), "postgresql")
