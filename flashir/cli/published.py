"""flashir bench --published: compare a published table with predictions."""

from __future__ import annotations

from flashir.cli import console


def show_published(name: str, as_json: bool) -> None:
    """Predict a published table and print both. Raises SettingError for an unknown table."""
    from flashir.bench.published import compare, read_table
    from flashir.cli.meter import meter

    table = read_table(name)
    with meter() as step:
        comparison = compare(table, step)
    if console.answer(comparison.as_dict(), as_json):
        return
    console.say(f"{table.source}: {table.title}", "bold")
    console.say(f"{table.target}, {table.tokens:,} tokens per batch; predictions with their errors", "dim")
    console.say()
    lengths = tuple(f"{length:,}" for length in table.lengths)
    shown = console.table("system", "", *lengths, right=lengths)
    for system in table.systems:
        rows = [row for row in comparison.rows if row.system == system]
        shown.add_row(system, "published", *(f"{row.published_ms:.1f}" for row in rows))
        shown.add_row("", "predicted", *(f"{row.predicted_ms:.1f} {row.error:+4.0%}" for row in rows))
    console.show(shown)
    console.say()
    console.say(f"median error {comparison.median_error:.1%}, worst {comparison.worst_error:.1%}")
    for seq_len, first, second in comparison.misordered:
        console.say(f"in the wrong order at {seq_len}: {first}, {second}", "yellow")
