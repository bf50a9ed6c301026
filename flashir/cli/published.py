"""flashir bench --published: a published table beside its predictions."""

from __future__ import annotations

from flashir.cli import console


def show_published(name: str, as_json: bool) -> None:
    """Predict a published table, and print both. Raises SettingError where there is no such table."""
    from flashir.bench.published import compare, read_table
    from flashir.cli.meter import meter

    table = read_table(name)
    with meter() as step:
        found = compare(table, step)
    if console.answer(found.as_dict(), as_json):
        return
    console.say(f"{table.source}: {table.title}", "bold")
    console.say(f"{table.target}, {table.tokens:,} tokens a batch; predicted, and how far off", "dim")
    console.say()
    lengths = tuple(f"{length:,}" for length in table.lengths)
    shown = console.table("system", "", *lengths, right=lengths)
    for system in table.systems:
        rows = [row for row in found.rows if row.system == system]
        shown.add_row(system, "published", *(f"{row.published_ms:.1f}" for row in rows))
        shown.add_row("", "predicted", *(f"{row.predicted_ms:.1f} {row.error:+4.0%}" for row in rows))
    console.show(shown)
    console.say()
    console.say(f"median error {found.median_error:.1%}, worst {found.worst_error:.1%}")
    for seq_len, one, other in found.misordered:
        console.say(f"in the wrong order at {seq_len}: {one}, {other}", "yellow")
