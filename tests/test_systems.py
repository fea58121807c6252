"""The registry: rows that build, budgets, and names."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import FrozenInstanceError, replace

import keras
import pytest
from shapes import labelled

from helpers import config, inference, losses, submission, systems, training
from helpers.backbones import resnet
from helpers.training import callbacks, runs

NAMES = {
    "jain-scratch",
    "jain-vgg16",
    "jain-resnet34",
    "jain-vgg19",
    "lavinama-unet",
    "bronze-inceptionresnet",
    "olsen-seresnext50",
    "olsen-seresnext101",
    "olsen-ensemble",
    "salt-net",
}
ROWS = [row for row in systems.SYSTEMS.values() if isinstance(row, systems.System)]
EACH_ROW = pytest.mark.parametrize("system", ROWS, ids=lambda row: row.name)


def test_every_published_system_has_its_row():
    assert set(systems.SYSTEMS) == NAMES
    assert systems.DEFAULT in systems.SYSTEMS
    assert len(systems._ALL) == len(NAMES)  # no two rows have the same name


def test_ensembles_name_rows_and_weights_that_make_one():
    for row in systems.SYSTEMS.values():
        assert set(dict(row.members)) <= {system.name for system in ROWS}
        assert sum(dict(row.members).values()) == pytest.approx(1.0)
    assert dict(systems.get("olsen-ensemble").members)["olsen-seresnext101"] == 0.7


def test_table_has_a_line_for_every_row():
    table = systems.table()
    assert set(table.index) == NAMES
    olsen, mean = table.loc["olsen-seresnext50"], table.loc["olsen-ensemble"]
    assert olsen["losses"] == "dice+0.2bce, then lovasz-elu"
    assert olsen["title"] == systems.get("olsen-seresnext50").title
    assert (olsen["batch_size"], olsen["folds"], olsen["stratify"]) == (10, 5, "type")
    assert mean["losses"] == "" and mean["published"]


@EACH_ROW
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
    assert [stage.epochs for stage in system.stages] == [3, 7]
    assert all(stage.schedule == "cosine" for stage in system.stages)


def test_budget_is_kept_where_each_stage_can_have_an_epoch():
    system = systems.get("olsen-seresnext50")  # 20 epochs, then 100
    for budget, counts in {2: [1, 1], 3: [1, 2], 12: [2, 10]}.items():
        stages = system.within(config.Budget(budget)).stages
        assert [stage.epochs for stage in stages] == counts


def test_smallest_budget_leaves_an_epoch_to_each_stage():
    budget = config.Budget(1, size=64, tiles=32, batch_size=8)
    system = systems.get("salt-net").within(budget)
    assert system.batch_size == 8
    assert [stage.epochs for stage in system.stages] == [1, 1]
    assert (system.transform.size, system.transform.mode, system.tiles) == (
        64,
        "resize",
        32,
    )


def test_budget_without_limits_changes_nothing():
    for system in ROWS:
        assert system.within(config.Budget(None)) == system


def test_systems_under_one_budget_have_one_set_of_folds():
    cut = [system.within(config.Budget(4)) for system in ROWS]
    assert len({system.stratify for system in cut}) == 1
    assert len({system.stratify for system in ROWS}) > 1


def test_without_borrowed_weights_nothing_is_frozen():
    network = systems.get("jain-vgg19").with_weights("none").network
    assert network.weights is None and network.frozen == ()
    assert systems.get("jain-vgg19").with_weights("a.h5").network.frozen


@pytest.mark.slow
@EACH_ROW
def test_row_trains_resumes_predicts_and_exports(system, tmp_path):
    """In a process of its own, which gives all its memory back."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        process.submit(whole_way, system, tmp_path).result()


def whole_way(system, folder):
    """The whole way of a row, with small tiles and shallow ResNeXts."""
    if keras.backend.backend() == "tensorflow":  # tracing takes longer than the steps
        import tensorflow as tf

        tf.config.run_functions_eagerly(True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.BLOCKS, "seresnext50", (1, 1, 1, 1))
        patch.setitem(resnet.BLOCKS, "seresnext101", (1, 1, 2, 1))
        tiles = labelled()
        settings = config.Settings("synthetic", folder, config.PROFILES["smoke"])
        budget = config.Budget(4, size=32, tiles=16, batch_size=4)
        small = system.within(budget).with_weights("none")
        stages = [  # its own losses, optimizer and schedule
            replace(stage, epochs=cut.epochs, learning_rate=1e-3)
            for stage, cut in zip(system.stages, small.stages, strict=True)
        ]
        system = replace(small, stages=tuple(stages))
        begin = callbacks.SeedEpoch.on_epoch_begin

        def off(self, epoch, logs=None):
            begin(self, epoch, logs)
            if epoch == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as cut:
            cut.setattr(callbacks.SeedEpoch, "on_epoch_begin", off)
            training.fit(system, tiles, 0, settings, verbose=0)
        run = training.fit(system, tiles, 0, settings, verbose=0)
        history = run.history()
        assert list(history["epoch"]) == [0, 1, 2, 3]
        longest = max(system.stages, key=lambda stage: stage.epochs)
        first = sum(s.epochs for s in system.stages[: system.stages.index(longest)])
        loss = history["loss"][first : first + longest.epochs]  # stages differ in it
        assert len(loss) > 1 and loss.iloc[-1] < loss.iloc[0], list(loss)
        members = runs.find_members(settings, system.name)
        masks = inference.PostProcess()(runs.predict(members, tiles.images[:3]))
        path = folder / "submission.csv"
        assert submission.write_submission(path, tiles.ids[:3], masks).rows == 3


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
