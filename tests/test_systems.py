"""The registry: rows that build, budgets, and names."""

from dataclasses import FrozenInstanceError

import pytest

from helpers import config, losses, systems, training


def test_the_rows_of_the_first_version_are_there():
    names = {"lavinama-unet", "jain-scratch", "jain-vgg16", "jain-vgg19", "salt-net"}
    assert names <= set(systems.SYSTEMS)
    assert systems.DEFAULT in systems.SYSTEMS


@pytest.mark.parametrize("system", systems.SYSTEMS.values(), ids=lambda row: row.name)
def test_every_row_names_losses_that_exist_and_a_source(system):
    assert system.source and system.title
    for stage in system.stages:
        losses.get(stage.loss)
        assert stage.schedule in ("cosine", "plateau")


def test_rows_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        systems.get("salt-net").name = "other"


def test_typo_lists_the_near_names():
    with pytest.raises(ValueError, match="jain-vgg19"):
        systems.get("jain-vgg-19")


def test_budget_shares_epochs_between_stages():
    system = systems.get("salt-net").within(config.Budget(10))
    assert [stage.epochs for stage in system.stages] == [6, 4]
    assert all(stage.schedule == "cosine" for stage in system.stages)


def test_smallest_budget_leaves_an_epoch_to_each_stage():
    budget = config.Budget(1, size=64, tiles=32, batch_size=8)
    system = systems.get("salt-net").within(budget)
    assert system.batch_size == 8
    assert [stage.epochs for stage in system.stages] == [1, 1]
    assert (system.frame.size, system.frame.mode, system.tiles) == (64, "resize", 32)


def test_budget_without_limits_changes_nothing():
    for system in systems.SYSTEMS.values():
        assert system.within(config.Budget(None)) == system


def test_default_network_builds_from_its_row():
    model = training.build_model(systems.get("salt-net"))
    assert model.output_shape == (None, 128, 128, 1)


def test_same_seed_same_weights_and_policy_is_put_back():
    system = systems.get("lavinama-unet").within(config.Budget(1, size=32))
    first, again, other = (
        training.build_model(system, "float32", seed).get_weights()[0]
        for seed in (1, 1, 2)
    )
    assert (first == again).all() and (first != other).any()
