"""Files are whole or absent, whoever writes them."""

from __future__ import annotations

import pytest
from leftovers import full, leftovers
from made_up import column, table
from marginkit_cli.options import write_json
from test_checkpoint import checkpoint

from marginkit.errors import MarginkitError
from marginkit.files.atomic import replacing
from marginkit.measurement.parts import Parts
from marginkit.models.checkpoint import save
from marginkit.table.export import write_csv, write_parquet
from marginkit.table.writing import write

pytestmark = pytest.mark.quick


def part(_, path):
    Parts(path).folder.mkdir(exist_ok=True)
    Parts(path).save(0, table(column([1.0])))


WRITERS = {
    "table": write,
    "csv": write_csv,
    "parquet": write_parquet,
    "checkpoint": lambda _, path: save(checkpoint(), path),
    "json": lambda found, path: write_json(found.meta, path),
    "part": part,
}


def test_an_unfinished_file_is_seen_among_the_leftovers(tmp_path):
    with replacing(tmp_path / "a.h5") as temporary:
        assert leftovers(tmp_path) == [temporary]
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(tmp_path, monkeypatch, writer, step):
    given = table(column([1.0]))
    WRITERS[writer](given, tmp_path / "a.out")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(f"marginkit.files.atomic.os.{step}", full)
    with pytest.raises(MarginkitError, match=r"^can't write .*: No space left on device$"):
        WRITERS[writer](given, tmp_path / "a.out")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not leftovers(tmp_path)
