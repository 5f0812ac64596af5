"""Readers other than Spark: each of the README's few lines gives the tables with their types and rows."""

import re

import oracle
import pyarrow as pa
import pytest
from tables import PARTITIONS, ROOT, assert_rows, columns_of, read_table

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = {
    re.search(r"import (\w+)", block).group(1): block
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    if "output/songplays" in block
}
TYPES = {"bigint": "int64", "int": "int32", "double": "double", "string": "string"}
TYPES["timestamp"] = "timestamp[us, tz=UTC]"


def in_arrow(table):
    """What a reader made, as an Arrow table."""
    if isinstance(table, pa.Table):
        return table
    if hasattr(table, "to_arrow_table"):  # DuckDB
        return table.to_arrow_table()
    if hasattr(table, "to_arrow"):  # polars
        return table.to_arrow()
    return pa.Table.from_pandas(table, preserve_index=False)


def test_the_readme_shows_four_readers():
    assert set(BLOCKS) == {"duckdb", "pyarrow", "pandas", "polars"}


@pytest.mark.parametrize("name", ["songplays", "songs", "time"])
@pytest.mark.parametrize("reader", ["duckdb", "pyarrow", "pandas", "polars"])
def test_a_reader_finds_the_columns_types_and_rows(reader, name, sample_output, monkeypatch):
    monkeypatch.chdir(sample_output)
    block = BLOCKS[reader].replace("output/songplays", f"output/{name}")
    if "month" not in PARTITIONS[name]:
        block = re.sub(r""", ['"]month['"]: [\w."]+""", "", block)
    found = {}
    exec(block, found)
    table = in_arrow(found["songplays"])
    assert sorted(table.column_names) == sorted(column for column, _ in columns_of(name))
    table = table.select([column for column, _ in columns_of(name)])
    types = [re.sub("large_|_view", "", str(field.type)) for field in table.schema]
    assert types == [TYPES[kind] for _, kind in columns_of(name)]
    if "start_time" in table.column_names:
        at = table.column_names.index("start_time")
        table = table.set_column(at, "start_time", table["start_time"].cast(pa.timestamp("us")))
    rows = oracle.sort_rows(row.values() for row in table.to_pylist())
    assert_rows(rows, read_table("output", name), name)
