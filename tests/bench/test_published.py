"""Published tables, and what the cost model says of them."""

import pytest

from flashir.bench.published import Comparison, Row, compare, read_table, table_names
from flashir.errors import SettingError
from flashir.models.load import model


@pytest.mark.parametrize("name", table_names())
def test_every_table_has_a_number_for_each_length(name):
    table = read_table(name)
    assert all(len(found.ms) == len(table.lengths) for found in table.systems.values())
    for system, found in table.systems.items():
        assert model(system, size="tiny", task=table.task, **found.settings).nodes


def test_an_unknown_table_is_refused():
    with pytest.raises(SettingError, match="no published table 'lmm'"):
        read_table("lmm")


def test_pairs_that_stand_apart_must_keep_their_order():
    table = read_table("lm")
    rows = (Row("flash", 512, 100, 50, 0), Row("combiner", 512, 110, 40, 0), Row("performer", 512, 200, 45, 0))
    found = Comparison(table, rows)
    assert found.misordered == ((512, "flash", "performer"),)
    assert found.worst_error == pytest.approx(1 - 45 / 200)


def test_table_12_is_predicted():
    """Median error at most 15%, worst at most 35%, no pair in the wrong order."""
    found = compare(read_table("lm"))
    assert len(found.rows) == 35
    assert found.median_error < 0.15
    assert found.worst_error < 0.35
    assert not found.misordered
