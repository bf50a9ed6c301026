"""The recipe: the paper's numbers, TOML that is checked, and what may change when a run goes on."""

from __future__ import annotations

import itertools
from dataclasses import fields
from pathlib import Path

import pytest

from flashir.errors import InputError, SettingError
from flashir.train.recipe import Recipe, read_recipe, recipe_of
from flashir.train.schedule import Schedule


def test_the_batch_the_schedule_and_the_optimiser_are_those_of_tables_5_and_6() -> None:
    recipe = Recipe().settled(rows=8, width=768)
    assert (recipe.tokens, recipe.steps, recipe.warmup) == (2**18, 125_000, 10_000)
    assert (recipe.learning_rate, recipe.clip, recipe.weight_decay) == (7e-4, 0.1, 0.01)
    adamw = recipe.optimiser
    assert (adamw.beta1, adamw.beta2, adamw.epsilon, adamw.weight_decay, adamw.clip) == (0.9, 0.999, 1e-6, 0.01, 0.1)
    assert Recipe(clip=0).optimiser.clip is None


def test_the_rate_is_that_of_the_paper_at_its_width_and_falls_with_the_width() -> None:
    rates = [Recipe().settled(rows=8, width=width).learning_rate for width in (64, 768, 1024)]
    assert rates == pytest.approx([8.4e-3, 7e-4, 5.25e-4])
    assert Recipe(learning_rate=1e-3).settled(rows=8, width=64).learning_rate == 1e-3


def test_the_recipe_paper_has_its_start_and_rate_and_options_override_it(tmp_path: Path) -> None:
    recipe = recipe_of("paper", {}).settled(rows=8, width=64)
    assert (recipe.init, recipe.token_frequencies, recipe.learning_rate, recipe.warmup) == (
        "paper",
        False,
        7e-4,
        10_000,
    )
    assert recipe_of("paper", {"learning_rate": 1e-3}).learning_rate == 1e-3
    assert (Recipe().init, Recipe().token_frequencies) == ("fan_in", True)
    with pytest.raises(SettingError, match="no recipe and no file 'papr'; did you mean 'paper'"):
        recipe_of("papr", {})


def test_warm_up_is_steps_or_a_share_of_them() -> None:
    assert [Recipe(steps=200, warmup=each).settled(1, 64).warmup for each in (None, 0, 0.3, 7)] == [16, 0, 60, 7]
    with pytest.raises(SettingError, match="warmup"):
        Recipe(warmup=1.5)


def test_a_batch_is_made_of_parts() -> None:
    recipe = Recipe(tokens=2**14, seq_len=512).settled(rows=8, width=768)
    assert (recipe.batch, recipe.rows, recipe.accumulate) == (32, 8, 4)


def test_a_short_run_warms_up_for_the_same_share_and_is_saved_fifty_times() -> None:
    recipe = Recipe(steps=200).settled(rows=1, width=768)
    assert (recipe.warmup, recipe.validate_every, recipe.save_every) == (16, 4, 4)
    assert Recipe(steps=200, warmup=0, save_every=7).settled(rows=1, width=768).save_every == 7


def test_the_schedule_rises_to_the_peak_and_falls_and_is_never_0() -> None:
    rates = [Schedule(7e-4, 10, 50)(number) for number in range(1, 51)]
    assert max(rates) == rates[9] == 7e-4
    assert rates[0] == pytest.approx(7e-5) and rates[-1] == pytest.approx(7e-4 / 41)
    up, down = rates[:10], rates[9:]
    assert up == sorted(up) and down == sorted(down, reverse=True)
    steps = {round(b - a, 12) for a, b in itertools.pairwise(down)}
    assert len(steps) == 1
    assert Schedule(1.0, 0, 1)(1) == 0.5 and Schedule(1.0, 1, 1)(1) == 1.0


def test_what_is_written_is_read(tmp_path: Path) -> None:
    recipe = Recipe(data=("a b.txt", 'q"uote\\'), steps=77, epsilon=1e-12, remat=True).settled(rows=2, width=768)
    recipe.write(tmp_path / "recipe.toml")
    assert Recipe(**read_recipe(tmp_path / "recipe.toml")) == recipe


def test_options_override_the_file(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text("steps = 10\nclip = 0.5\nlearning_rate = 1\n")
    recipe = recipe_of(file, {"steps": 20})
    assert (recipe.steps, recipe.clip, recipe.learning_rate) == (20, 0.5, 1)


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text('stepz = 10\nclip = "x"\nwarmup = -1\n')
    with pytest.raises(SettingError) as caught:
        recipe_of(file, {"seed": -1, "beta1": 1.0})
    told = caught.value.message
    assert len(caught.value.problems) == 5
    for part in ("no setting 'stepz'; did you mean 'steps'?", "clip", "warmup", "seed", "beta1", "r.toml"):
        assert part in told


def test_settings_that_contradict_each_other_are_told() -> None:
    with pytest.raises(SettingError) as caught:
        Recipe(tokens=1000, steps=5, warmup=6)
    assert len(caught.value.problems) == 2
    assert caught.value.where == "recipe" and "flashir.train.recipe.Recipe" in caught.value.hint
    with pytest.raises(SettingError, match="rows must divide the 4 rows of a batch, as 2 does, got 3"):
        Recipe(tokens=4096, rows=3)


@pytest.mark.parametrize("content", [b"steps = ", b"\xff\xfe", None])
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "r.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match="cannot read the recipe"):
        read_recipe(file)


def test_a_run_goes_on_as_it_began() -> None:
    recipe = Recipe().settled(rows=8, width=768)
    changed = recipe.changed(target="jax:cpu", keep=9, save_every=3, rows=4)
    assert (changed.target, changed.keep, changed.save_every, changed.rows) == ("jax:cpu", 9, 3, 4)
    assert recipe.changed(steps=125_000) == recipe
    with pytest.raises(SettingError, match="these settings of a run cannot change") as caught:
        recipe.changed(steps=10, learning_rate=1e-3, keep=2)
    assert caught.value.problems[0] == "steps is 125000 in this run and may only grow, got 10"
    assert len(caught.value.problems) == 2


def test_a_run_that_goes_further_decays_to_its_new_end() -> None:
    recipe = Recipe(steps=100).settled(rows=8, width=768)
    further = recipe.changed(steps=1000)
    assert (further.steps, further.warmup) == (1000, 8)
    assert further.schedule(100) > recipe.schedule(100) and further.schedule(1000) < further.schedule(999)


def test_every_setting_is_documented() -> None:
    text = Recipe.__doc__ or ""
    for each in fields(Recipe):
        assert each.name in text.replace(",", " ").replace(":", " ").split(), each.name
