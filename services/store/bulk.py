"""Many rows in one statement, for the price of one parameter.

They travel as one JSON document, which Postgres takes apart by the columns' own types. Binding each
value by itself costs a worker more time than all else it does with the row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import JSON, ColumnElement, Table, column, func, literal, select
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.sql.selectable import TableValuedAlias
from sqlalchemy.types import TypeEngine

Record = Mapping[str, Any]
"""Column → a value as JSON has it: ids as text, vectors as Postgres writes them."""


def recordset(
    rows: Sequence[Record], types: Mapping[str, TypeEngine[Any]], name: str
) -> TableValuedAlias:
    """The rows as a table to select or update from, with the columns of `types`."""
    columns: list[ColumnElement[Any]] = [column(key, kind) for key, kind in types.items()]
    records = func.json_to_recordset(literal(rows, JSON)).table_valued(*columns)
    return records.render_derived(name=name, with_types=True)


def insert_rows(table: Table, rows: Sequence[Record]) -> Insert:
    """`INSERT` of all rows, which have the columns of the first."""
    names = list(rows[0])
    new = recordset(rows, {name: table.c[name].type for name in names}, "new")
    chosen = select(*(new.c[name] for name in names))
    return insert(table).from_select(names, chosen, include_defaults=False)
