import io
import os
import struct
import sys
import zipfile
import zlib
from dataclasses import replace
from types import SimpleNamespace

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers import data
from helpers.config import PROFILES, Settings
from helpers.data import Tiles
from helpers.rle import rle_encode
from helpers.utils.files import DataError

TRAIN = ["8e13060816", "0004230816", "1e5", "00012", "0000000000", "3e0000004"]
TEST = ["7e12345678", "0000000012", "5e1"]
BLACK, WHOLE = TRAIN[4:]
ADVICE = "SALT_DATA_DIR"


# --- a small competition


def image(name):
    """Random intensities that depend on the name; `BLACK` is constant."""
    gray = np.random.default_rng([*name.encode()]).integers(0, 256, (101, 101))
    return gray.astype(np.uint8) * (name != BLACK)


def mask(name):
    salt = np.zeros((101, 101), bool)
    if name in TRAIN[:4]:
        salt[10 * TRAIN.index(name) :, 3:] = True  # touches two borders
    salt[:] |= name == WHOLE
    return salt


def depth(name):
    return 51 + 7 * [*TRAIN, *TEST].index(name)


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def picture(mode, kind, name="1e5"):
    """The image of a tile as another program may save it."""
    stream = io.BytesIO()
    Image.fromarray(image(name)).convert(mode).save(stream, kind)
    return stream.getvalue()


def palette_png(gray):
    """Colors in an order of their own; 1 bit for a constant tile."""
    order = np.random.default_rng(0).permutation(256).astype(np.uint8)
    indexed = Image.fromarray(np.argsort(order).astype(np.uint8)[gray], "P")
    indexed.putpalette(np.repeat(order, 3).tobytes())
    stream = io.BytesIO()
    indexed.save(stream, "PNG", transparency=b"\0\xff")
    return stream.getvalue()


def mask_png(salt):
    """16 bits, but 8 without salt; and one as another program would save it."""
    if salt.all():
        return png(salt.astype(np.uint8))
    return png(salt.astype(np.uint16) * 65535 if salt.any() else salt.astype(np.uint8))


def zipped(files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def csv(header, rows):
    return "\n".join([header, *(",".join(map(str, row)) for row in rows), ""]).encode()


def unpacked():
    """The files of the competition: dict from names to bytes."""
    files = {
        "train.csv": csv(
            "id,rle_mask", [(name, rle_encode(mask(name))) for name in TRAIN]
        ),
        "depths.csv": csv(
            "id,z", [(name, depth(name)) for name in reversed([*TRAIN, *TEST])]
        ),
        "sample_submission.csv": csv("id,rle_mask", [(name, "1 1") for name in TEST]),
    }
    for name in TRAIN:
        files[f"train/images/{name}.png"] = png(np.stack([image(name)] * 3, axis=-1))
        files[f"train/masks/{name}.png"] = mask_png(mask(name))
    for name in TEST:
        files[f"test/images/{name}.png"] = png(np.stack([image(name)] * 3, axis=-1))
    return files


def inner_zips(top=False):
    """The files as they are fetched: `train.zip` and `test.zip` beside the tables."""
    files, packed = unpacked(), {}
    for split in ("train", "test"):
        names = [name for name in files if name.startswith(f"{split}/")]
        cut = 0 if top else len(split) + 1
        members = {name[cut:]: files.pop(name) for name in names}
        packed[f"{split}.zip"] = zipped(members)
    return {**files, **packed}


def flat():
    """`train.zip` and `test.zip` unpacked over each other."""
    return {
        name.split("/", name.count("/") - 1)[-1]: c for name, c in unpacked().items()
    }


def within(folder, files):
    return {f"{folder}/{name}": content for name, content in files.items()}


BUNDLE = "tgs-salt-identification-challenge.zip"
APPLE = {
    "__MACOSX/images/1e5.png": b"resource fork",
    "__MACOSX/._train.csv": b"\0",
    "./": b"",  # a folder
}
LAYOUTS = {
    "folders": unpacked,
    "flat": flat,
    "inner zips": inner_zips,
    "inner zips with a folder": lambda: inner_zips(top=True),
    "bundle of zips": lambda: {BUNDLE: zipped(inner_zips())},
    "bundle of folders": lambda: {"bundle.zip": zipped({**APPLE, **unpacked()})},
    "bundle with a folder": lambda: {BUNDLE: zipped(within("tgs", inner_zips()))},
    "Kaggle": lambda: {**within("competition_data", unpacked()), "flamingo.txt": b""},
    "everything twice": lambda: {**unpacked(), **inner_zips()},
}


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def settings_for(source, **sizes):
    profile = replace(PROFILES["quick"], **sizes)
    return Settings(source, source.parent / "outputs", profile)


@pytest.fixture
def competition(tmp_path):
    """Settings for the unpacked files."""
    return settings_for(write(tmp_path / "tgs", unpacked()))


def check_tiles(settings):
    tiles, test = data.load_tiles(settings), data.load_test_tiles(settings)
    assert tiles.ids.tolist() == TRAIN and test.ids.tolist() == TEST
    assert np.array_equal(tiles.images, [image(name) for name in TRAIN])
    assert np.array_equal(test.images, [image(name) for name in TEST])
    assert np.array_equal(tiles.masks, [mask(name) for name in TRAIN])
    assert tiles.depths.tolist() == [depth(name) for name in TRAIN]
    assert test.depths.tolist() == [depth(name) for name in TEST]
    assert (tiles.images.dtype, tiles.masks.dtype) == (np.uint8, bool)
    assert test.masks is None
    return tiles


# --- reading


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tiles_are_read_from_every_layout(tmp_path, layout):
    check_tiles(settings_for(write(tmp_path / "in", LAYOUTS[layout]())))


@pytest.mark.parametrize("layout", ["bundle of zips", "bundle of folders"])
def test_a_bundle_may_be_given_as_a_file(tmp_path, layout):
    folder = write(tmp_path, LAYOUTS[layout]())
    check_tiles(settings_for(next(folder.glob("*.zip"))))


def test_tiles_know_their_coverage_and_which_are_constant(competition):
    tiles = check_tiles(competition)
    assert tiles.constant.tolist() == [name == BLACK for name in TRAIN]
    assert tiles.coverage[[0, 4, 5]] == pytest.approx([98 / 101, 0, 1])
    few = tiles.take(np.array([5, 4]))
    assert few.ids.tolist() == TRAIN[:3:-1] and few.coverage.tolist() == [1, 0]
    assert data.load_test_tiles(competition).take(slice(1)).masks is None


def test_a_profile_reads_a_seeded_sample_in_the_order_of_the_table(competition):
    small = settings_for(competition.data, train_tiles=3, test_tiles=2)
    tiles = data.load_tiles(small)
    assert len(set(tiles.ids)) == 3
    assert tiles.ids.tolist() == [name for name in TRAIN if name in set(tiles.ids)]
    assert np.array_equal(tiles.images, [image(name) for name in tiles.ids])
    assert np.array_equal(tiles.masks, [mask(name) for name in tiles.ids])
    assert data.load_tiles(small).ids.tolist() == tiles.ids.tolist()
    drawn = [data.load_tiles(replace(small, seed=seed)).ids for seed in range(4)]
    assert len({tuple(ids) for ids in drawn}) > 1
    assert data.load_test_tiles(small).ids.tolist() == TEST[:2]


def test_synthetic_files_are_written_once_and_read_like_real_ones(
    tmp_path, monkeypatch
):
    calls = []

    def fake(folder, train, test, seed):
        calls.append((train, test, seed))
        write(folder, inner_zips())

    monkeypatch.setattr(data.synthetic, "write_dataset", fake)
    settings = Settings("synthetic", tmp_path, PROFILES["quick"], seed=3)
    check_tiles(settings)
    check_tiles(settings)
    assert calls == [(1500, 500, 3)]


# --- bad data


def without(*names):
    return lambda files: [files.pop(name) for name in names]


def instead(name, content):
    return lambda files: files.update({name: content})


def edited(name, old, new):
    return lambda files: files.update({name: files[name].replace(old, new, 1)})


SHIFTED = np.roll(mask("1e5"), 1, axis=1)
SQUARE = np.zeros((128, 128, 3), np.uint8)
FAULTS = {
    "no table": (without("train.csv"), r"train\.csv is missing"),
    "no depths": (without("depths.csv"), r"depths\.csv is missing"),
    "no tables": (
        without("train.csv", "depths.csv", "sample_submission.csv"),
        rf"tgs: holds none of train\.csv.*{ADVICE}",
    ),
    "no image": (without("train/images/1e5.png"), "train/images/1e5 is missing"),
    "no mask": (without("train/masks/1e5.png"), "train/masks/1e5 is missing"),
    "no depth": (
        edited("depths.csv", b"1e5,", b"1e6,"),
        r"depths\.csv: z of tile 1e5 is 'missing', not 0 to 999999 .*: fetch",
    ),
    **{
        f"depth {text}": (
            edited(
                "depths.csv", f"1e5,{depth('1e5')}".encode(), f"1e5,{text}".encode()
            ),
            r"depths\.csv: z of tile 1e5 is '.*', not 0 to 999999 .*: fetch",
        )
        for text in ("x", "-5", "inf", "nan", "1e3", "51.5", "", "9" * 20, "\u0665")
    },
    "depths by a spreadsheet": (
        edited("depths.csv", b"0004230816", b"4230816"),
        r"depths\.csv: z of tile 0004230816 is 'missing', .* \(has a spreadsheet cut",
    ),
    "ids by a spreadsheet": (
        edited("train.csv", b"0004230816", b"4230816"),
        r"train\.csv: has no row for image '0004230816' \(has a spreadsheet cut its",
    ),
    "ids as floats": (
        edited("train.csv", b"8e13060816", b"8.00E+13"),
        r"train\.csv: '8\.00E\+13' is no id of letters and digits \(spread",
    ),
    "id of other letters": (
        edited("train.csv", b"1e5,", "1\u00e95,".encode()),
        r"train\.csv: '1\u00e95' is no id",
    ),
    "comma at the end": (
        edited("train.csv", b"00012,", b"00012,,"),
        r"train\.csv: row '00012' has 3 fields, not 2 \(is there a comma",
    ),
    "semicolons": (edited("train.csv", b"id,", b"id;"), r"header \['id;rle_mask'\]"),
    "column twice": (edited("train.csv", b"id,", b"id,id,"), "header"),
    "open quote": (edited("train.csv", b"00012,", b'00012,"'), "unreadable .*: fetch"),
    "unknown id": (
        edited("train.csv", b"1e5,", b"1e6,"),
        r"train\.csv: has no row for image '1e5' .*: fetch",
    ),
    "repeated id": (
        edited("train.csv", b"0004230816,", b"1e5,"),
        r"train\.csv: id 1e5 appears more than once",
    ),
    "repeated depth": (
        edited("depths.csv", b"0000000000,", b"1e5,"),
        r"depths\.csv: id 1e5 appears more than once",
    ),
    "other columns": (
        edited("train.csv", b"rle_mask", b"mask"),
        r"train\.csv: header \['id', 'mask'\], needs id and rle_mask: fetch",
    ),
    "empty table": (instead("train.csv", b""), r"train\.csv: header \[\]"),
    "table in bytes": (instead("train.csv", b"id,\xff\n"), r"train\.csv: unreadable"),
    "wrong size": (
        instead("train/images/1e5.png", png(SQUARE)),
        r"1e5\.png: has shape \(128, 128\), expected \(101, 101\): fetch",
    ),
    "no picture": (
        instead("train/images/1e5.png", b"PNG"),
        r"1e5\.png: not a PNG image: fetch",
    ),
    "half a picture": (
        instead("train/images/1e5.png", png(np.stack([image("1e5")] * 3, -1))[:9000]),
        r"images.1e5\.png: .*truncated.*: fetch",
    ),
    "JPEG": (
        instead("train/images/1e5.png", picture("L", "JPEG")),
        r"images.1e5\.png: not a PNG image: fetch",
    ),
    "CMYK": (instead("train/images/1e5.png", picture("CMYK", "TIFF")), "not a PNG"),
    "mask moved": (
        instead("train/masks/1e5.png", mask_png(SHIFTED)),
        r"masks.1e5\.png or train\.csv: mask differs from its RLE in 162 pixels: fetch",
    ),
    "mask lost": (
        instead("train/masks/1e5.png", mask_png(SHIFTED & False)),
        r"1e5\.png or train\.csv: mask differs",
    ),
    "RLE lost": (
        edited("train.csv", rle_encode(mask("1e5")).encode(), b""),
        r"1e5\.png or train\.csv: mask differs",
    ),
    "RLE broken": (
        edited("train.csv", rle_encode(mask("1e5")).encode(), b"0 5"),
        r"1e5\.png or train\.csv: RLE '0 5'.*: fetch",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_bad_data_is_named(tmp_path, case):
    files = unpacked()
    spoil, message = FAULTS[case]
    spoil(files)
    settings = settings_for(write(tmp_path / "tgs", files))
    with pytest.raises(DataError, match=message):
        data.load_tiles(settings)


def test_a_folder_or_file_that_is_no_data_is_refused_with_advice(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no zip")
    for source, fault in [
        ("nowhere", r"nowhere: no folder or zip \(No such file"),
        ("long" * 75, r"no folder or zip \(File name too long\)"),
        ("zero\0", r"no folder or zip \(embedded null"),
        ("empty", "empty: holds none"),
        ("notes.txt", r"notes\.txt: damaged zip"),
    ]:
        with pytest.raises(DataError, match=fault):
            data.load_tiles(settings_for(tmp_path / source))
    with pytest.raises(DataError, match=r"missing.*SALT_DATA_DIR"):
        data.load_test_tiles(settings_for(write(tmp_path / "x", {"train.csv": b""})))


def test_damage_anywhere_in_a_bundle_is_data_error_or_harmless(tmp_path):
    whole = zipped(inner_zips())
    bundle = write(tmp_path, {"bundle.zip": whole}) / "bundle.zip"
    headers = [info.header_offset for info in zipfile.ZipFile(bundle).infolist()]
    starts = [at + 30 + len("depths.csv") for at in headers]  # of deflated data
    for at in [*headers, *starts, *range(0, len(whole), 400)]:
        damaged = bytearray(whole)
        damaged[at] ^= 255
        bundle.write_bytes(damaged)
        try:
            check_tiles(settings_for(bundle))
        except DataError as error:
            assert "bundle.zip" in str(error) or "missing" in str(error)
    bundle.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"bundle\.zip: damaged zip .*fetch it again"):
        data.load_tiles(settings_for(bundle))


# --- folds


def test_coverage_classes_are_tenths_rounded_up():
    shares = [0, 1 / 10201, 0.1, 0.1001, 0.55, 0.9, 0.9001, 1]
    assert data.coverage_class(shares).tolist() == [0, 1, 1, 2, 6, 9, 10, 10]


def some_tiles(count):
    rng = np.random.default_rng(0)
    edge = np.where(rng.random(count) < 0.4, 0, rng.integers(1, 102, count))
    masks = np.arange(101)[None, :, None] < edge[:, None, None]
    masks = np.broadcast_to(masks, (count, 101, 101))
    depths = rng.integers(51, 960, count)
    return Tiles(np.arange(count).astype(str), masks.astype(np.uint8), masks, depths)


@pytest.mark.parametrize("count", [100, 103])
def test_folds_are_alike_in_size_coverage_and_depth(count):
    tiles = some_tiles(count)
    folds = data.make_folds(tiles, 5, seed=1)
    sizes = np.bincount(folds, minlength=5)
    assert sizes.sum() == count and np.ptp(sizes) <= 2
    classes = data.coverage_class(tiles.coverage)
    per_class = [np.bincount(folds[classes == c], minlength=5) for c in range(11)]
    assert np.ptp(per_class, axis=1).max() <= 3
    empty = classes == 0
    means = [tiles.depths[empty & (folds == fold)].mean() for fold in range(5)]
    assert np.ptp(means) < 250  # about 350 of a random split's worst
    assert np.array_equal(folds, data.make_folds(tiles, 5, seed=1))
    assert not np.array_equal(folds, data.make_folds(tiles, 5, seed=2))


def strange_masks():
    """One mask or more of each type: dict from types to bool (n, 101, 101)."""
    empty = np.zeros((101, 101), bool)

    def square(rows, cols):
        mask = empty.copy()
        mask[rows, cols] = True
        return mask

    every, half = slice(None), slice(50, None)
    return {
        0: [empty],
        1: [square(9, 50), square(slice(91, 101), every), square(every, slice(0, 10))],
        2: [square(every, slice(9, 11)), square(every, [50, 60, 61]), ~empty],
        3: [square(10, 10), square(slice(86, 101), every), square(half, slice(30))],
        4: [square(slice(85, 101), every), square(slice(76, 101), every)],
        5: [square(half, half), square(slice(51, 101), every)],
        6: [square(half, every), square(slice(26, 101), every)],
        7: [square(slice(25, 101), every), ~square(0, 0)],
    }


def test_masks_have_eight_types():
    for kind, masks in strange_masks().items():
        types = data.mask_type(np.array(masks))
        assert types.tolist() == [kind] * len(masks)
        assert np.issubdtype(types.dtype, np.integer)
    assert data.mask_type(np.zeros((0, 101, 101), bool)).shape == (0,)


@pytest.mark.filterwarnings("error")
@hypothesis.settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(51, 60)), min_size=5),
    st.integers(2, 5),
    st.integers(0, 99),
    st.sampled_from(["coverage+depth", "coverage", "depth", "type", "type+depth"]),
)
def test_folds_share_out_every_class_however_rare(drawn, k, seed, by):
    pool, count = strange_masks(), len(drawn)
    masks = np.array(
        [pool[kind][n % len(pool[kind])] for n, (kind, _) in enumerate(drawn)]
    )
    depths = np.array([depth for _, depth in drawn])
    tiles = Tiles(np.arange(count).astype(str), masks.astype(np.uint8), masks, depths)
    folds = data.make_folds(tiles, k, seed, by)
    assert folds.shape == (count,) and set(folds) == set(range(k))
    assert np.ptp(np.bincount(folds)) <= 3
    classes = {
        "coverage": data.coverage_class(tiles.coverage),
        "depth": np.argsort(np.argsort(depths, kind="stable")) * 10 // count,
        "type": data.mask_type(masks),
    }[by.split("+")[0]]
    for one in set(classes):  # three strata of depth may be one off each
        assert np.ptp(np.bincount(folds[classes == one], minlength=k)) <= 4
    assert np.array_equal(folds, data.make_folds(tiles, k, seed, by))


def test_folds_are_alike_in_what_was_asked_for():
    tiles = some_tiles(500)
    default = data.make_folds(tiles)
    assert np.array_equal(default, data.make_folds(tiles, 5, 2018, "coverage+depth"))
    assert not np.array_equal(default, data.make_folds(tiles, by="coverage"))
    folds = data.make_folds(tiles, by="depth")
    means = [tiles.depths[folds == fold].mean() for fold in range(5)]
    assert np.ptp(means) < 10  # of 260
    folds = data.make_folds(tiles, by="type+depth")
    strips = data.mask_type(tiles.masks) == 5
    means = [tiles.depths[strips & (folds == fold)].mean() for fold in range(5)]
    assert np.ptp(means) < 90  # about 150 if tiles are split at random


def test_tiles_of_a_section_stay_in_one_fold():
    tiles = some_tiles(500)
    sections = np.random.default_rng(1).integers(0, 200, 500)
    folds = data.make_folds(replace(tiles, sections=sections))
    for section in np.unique(sections):
        assert len(set(folds[sections == section])) == 1
    assert np.ptp(np.bincount(folds)) < 10  # of 100
    coverage = [tiles.coverage[folds == fold].mean() for fold in range(5)]
    assert np.ptp(coverage) < 0.03  # 0.08 on average if sections are split at random
    alone = data.make_folds(replace(tiles, sections=np.arange(500)))
    assert np.array_equal(alone, data.make_folds(tiles))


@pytest.mark.parametrize("by", ["", "Depth", "coverage+", "coverage,depth", "decile"])
def test_unknown_ways_to_make_folds_are_refused(by):
    with pytest.raises(
        ValueError, match=r"is not made of coverage, depth, type and \+"
    ):
        data.make_folds(some_tiles(6), 2, by=by)


def test_folds_need_masks_and_enough_tiles():
    tiles = some_tiles(6)
    with pytest.raises(ValueError, match=r"7 folds need .* 7 sections"):
        data.make_folds(tiles, 7)
    with pytest.raises(ValueError, match="tiles with masks"):
        data.make_folds(replace(tiles, masks=None), 2)


# --- fetching


@pytest.fixture
def kagglehub(monkeypatch):
    """A kagglehub whose answer, a path or an exception, the test decides."""
    fake = SimpleNamespace(answer=AssertionError("nobody asked for it"), asked=[])

    def competition_download(name):
        fake.asked.append(name)
        if isinstance(fake.answer, Exception):
            raise fake.answer
        return str(fake.answer)

    fake.competition_download = competition_download
    monkeypatch.setitem(sys.modules, "kagglehub", fake)
    return fake


def test_a_download_lands_where_we_look_first(tmp_path, kagglehub):
    kagglehub.answer = write(tmp_path / "hub", inner_zips())
    folder = tmp_path / "data" / "tgs"
    assert data.download(folder) == folder
    assert kagglehub.asked == ["tgs-salt-identification-challenge"]
    check_tiles(settings_for(folder))
    assert data.download(folder) == folder
    assert len(kagglehub.asked) == 1
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize(
    "answer", [OSError("403 {rules}"), ValueError("no token"), None]
)
def test_a_failed_download_says_what_to_do_and_leaves_nothing(
    tmp_path, monkeypatch, kagglehub, answer
):
    kagglehub.answer = answer
    if answer is None:
        monkeypatch.setitem(sys.modules, "kagglehub", None)  # not installed
    with pytest.raises(DataError) as caught:
        data.download(tmp_path / "data" / "tgs")
    message = str(caught.value)
    for part in (
        str(answer or "kagglehub"),
        "/rules",
        "KAGGLE_API_TOKEN",
        "access_token",
    ):
        assert part in message
    assert (
        "pip install -U kagglehub" in message and "SALT_DATA_DIR=synthetic" in message
    )
    assert str(tmp_path / "data" / "tgs") in message
    assert not list(tmp_path.iterdir())


def test_a_download_of_something_else_is_not_kept(tmp_path, kagglehub):
    kagglehub.answer = write(tmp_path / "hub", {"readme.txt": b"moved"})
    with pytest.raises(DataError, match="holds none"):
        data.download(tmp_path / "data" / "tgs")
    assert not (tmp_path / "data").exists()


def test_reading_never_downloads(tmp_path, kagglehub):
    with pytest.raises(DataError, match="no folder or zip"):
        data.load_tiles(settings_for(tmp_path / "tgs"))
    assert not kagglehub.asked


def test_image_without_a_row_is_named(tmp_path):
    files = unpacked()
    files["train/images/stray.png"] = files["train/images/1e5.png"]
    with pytest.raises(DataError, match=r"train\.csv: has no row for image 'stray'"):
        data.load_tiles(settings_for(write(tmp_path / "tgs", files)))


def test_cut_list_of_test_tiles_is_noticed(tmp_path):
    files = unpacked()
    rows = files["sample_submission.csv"].splitlines(keepends=True)
    files["sample_submission.csv"] = b"".join(rows[:-1])
    message = rf"sample_submission\.csv: has no row for image '{TEST[-1]}'"
    with pytest.raises(DataError, match=message):
        data.load_test_tiles(settings_for(write(tmp_path / "tgs", files)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_complete_data_pass_the_check(tmp_path, layout):
    data.check_parts(settings_for(write(tmp_path / "tgs", LAYOUTS[layout]())))


@pytest.mark.parametrize("part", inner_zips())
def test_missing_part_is_named_at_once(tmp_path, part):
    there = inner_zips()
    del there[part]
    missing = part.replace(".zip", "/images/.*")
    folder = write(tmp_path / "tgs", there)
    with pytest.raises(DataError, match=rf"{missing} is missing from .* SALT_DATA"):
        data.check_parts(settings_for(folder))


def test_table_without_rows_is_named(tmp_path):
    files = unpacked() | {"train.csv": b"id,rle_mask\n"}
    with pytest.raises(DataError, match=r"train\.csv: has no rows"):
        data.load_tiles(settings_for(write(tmp_path / "tgs", files)))


def test_zips_that_are_not_ours_are_passed_over(tmp_path):
    folder = write(tmp_path / "tgs", unpacked())
    for name in ("._train.zip", "notes.zip"):
        (folder / name).write_bytes(b"not a zip")
    assert len(data.load_tiles(settings_for(folder)))


@pytest.mark.parametrize("kind", ["sixteen bits", "colors"])
def test_image_that_is_not_gray_in_eight_bits_is_named(tmp_path, kind):
    gray = image("1e5")
    odd = {
        "sixteen bits": gray.astype(np.uint16) + 256,
        "colors": np.stack([gray, gray, 255 - gray], axis=-1),
    }
    files = unpacked() | {"train/images/1e5.png": png(odd[kind])}
    with pytest.raises(DataError, match=r"1e5\.png: not an 8-bit grayscale image"):
        data.load_tiles(settings_for(write(tmp_path / "tgs", files)))


@pytest.mark.parametrize("mode", ["palette", "1", "L", "LA", "RGBA", "mask palette"])
def test_pictures_saved_by_other_programs_are_read_right(tmp_path, mode):
    files = unpacked()
    if mode == "1":
        files[f"train/images/{BLACK}.png"] = picture("1", "PNG", BLACK)
    elif mode == "mask palette":
        files["train/masks/1e5.png"] = palette_png(mask("1e5").astype(np.uint8))
    else:
        other = palette_png(image("1e5"))
        files["train/images/1e5.png"] = (
            other if mode == "palette" else picture(mode, "PNG")
        )
    check_tiles(settings_for(write(tmp_path / "tgs", files)))


def test_colors_in_sixteen_bits_are_refused(tmp_path):
    header = struct.pack(">IIBBBBB", 101, 101, 16, 2, 0, 0, 0)
    rows = zlib.compress(bytes(101 * (1 + 101 * 6)))
    content = b"\x89PNG\r\n\x1a\n"
    for kind, chunk in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")):
        check = zlib.crc32(kind + chunk)
        content += struct.pack(">I", len(chunk)) + kind + chunk
        content += struct.pack(">I", check)
    files = unpacked() | {f"train/images/{BLACK}.png": content}
    with pytest.raises(DataError, match=r"0000\.png: not an 8-bit grayscale"):
        data.load_tiles(settings_for(write(tmp_path / "tgs", files)))


def test_size_is_checked_before_a_picture_is_unpacked(tmp_path, monkeypatch):
    huge = png(np.zeros((101, 101), np.uint8))
    huge = huge[:16] + struct.pack(">II", 13_000, 13_000) + huge[24:]
    files = unpacked() | {"train/images/1e5.png": huge}
    monkeypatch.setattr(data, "Image", None)
    with pytest.raises(
        DataError, match=r"shape \(13000, 13000\), expected \(101, 101\)"
    ):
        data._read(data.File("1e5.png", lambda: files["train/images/1e5.png"]))


def test_tables_are_checked_before_any_picture_is_read(tmp_path, monkeypatch):
    files = unpacked()
    files["depths.csv"] += b"1e5,9\n"
    settings = settings_for(write(tmp_path / "tgs", files))
    monkeypatch.setattr(data, "_read", None)
    for read in (data.load_tiles, data.load_test_tiles, data.check_parts):
        with pytest.raises(DataError, match=r"depths\.csv: id 1e5 appears more than"):
            read(settings)


def test_training_tile_among_the_test_tiles_is_named(tmp_path):
    files = unpacked()
    files["sample_submission.csv"] += b"1e5,1 1\n"
    files["test/images/1e5.png"] = files["train/images/1e5.png"]
    settings = settings_for(write(tmp_path / "tgs", files))
    for read in (data.load_test_tiles, data.check_parts):
        with pytest.raises(DataError, match=r"submission\.csv: tile 1e5 is a training"):
            read(settings)


STALE = {  # what lies about, of another version
    "depths.csv": csv("id,z", [("1e5", 1)]),
    "train.csv": b"id,rle_mask\n1e5,\n",
    "train/images/1e5.png": png(np.zeros((101, 101, 3), np.uint8)),
    "train/masks/1e5.png": png(np.zeros((101, 101), np.uint8)),
}
BESIDE = {
    "backup": within("backup", STALE),
    "above": within("Backup/tgs", STALE),
    "trash": within(".Trash/tgs", STALE),
    "Windows trash": within("$RECYCLE.BIN", STALE),
    "Apple": {
        **within("__MACOSX", STALE),
        "train/images/._1e5.png": b"fork",
        "._train.zip": b"fork",
    },
    "zip": {"a.zip": zipped(STALE)},
    "zip below": {"a/train.zip": zipped({"images/1e5.png": b""})},
    "synthetic": within("outputs/synthetic-1500-500-2018-abc", inner_zips()),
}


@pytest.mark.parametrize("layout", ["folders", "inner zips"])
@pytest.mark.parametrize("case", BESIDE)
def test_files_nearest_to_the_top_count(tmp_path, case, layout):
    beside = BESIDE[case]
    if case == "zip" and layout == "inner zips":
        pytest.skip("then neither zip is nearer: see the next test")
    check_tiles(settings_for(write(tmp_path / "in", LAYOUTS[layout]() | beside)))


def test_in_a_folder_below_as_well(tmp_path):
    files = within("competition_data", unpacked() | BESIDE["backup"])
    check_tiles(settings_for(write(tmp_path / "in", files)))


def test_two_versions_side_by_side_are_named(tmp_path):
    both = within("a", unpacked()) | within("b", unpacked())
    check_tiles(settings_for(write(tmp_path / "tgs", both)))  # they are equal
    both["b/depths.csv"] += b"more,1\n"
    with pytest.raises(
        DataError, match=r"a.depths\.csv and .*b.depths\.csv differ: move"
    ):
        data.load_tiles(settings_for(write(tmp_path / "tgs", both)))


def renamed(change):
    return lambda: {change(name): content for name, content in unpacked().items()}


@pytest.mark.parametrize(
    "files",
    [
        renamed(lambda name: name.replace(".png", ".PNG")),
        renamed(
            lambda name: name.replace("train/i", "Train/I").replace(".csv", ".CSV")
        ),
        renamed(lambda name: name.replace("images/", "images\\")),
        lambda: {"bundle.zip": zipped(renamed(lambda x: x.replace("/", "\\"))())},
        lambda: {"bundle.ZIP": zipped(renamed(lambda name: f"/{name}")())},
    ],
    ids=["PNG", "capitals", "Windows folder", "Windows zip", "absolute"],
)
def test_names_from_other_systems_are_understood(tmp_path, files):
    check_tiles(settings_for(write(tmp_path / "in", files())))


def test_links_are_followed_and_circles_are_not(tmp_path):
    write(tmp_path / "elsewhere", unpacked())
    folder = write(tmp_path / "tgs", {"notes.txt": b""})
    for path in (tmp_path / "elsewhere").iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "again").symlink_to(folder)
    (folder / "gone").symlink_to(tmp_path / "nowhere")
    (folder / "itself").symlink_to(folder / "itself")
    check_tiles(settings_for(folder))


def test_names_that_are_not_utf8_can_be_printed(tmp_path):
    odd = os.fsdecode(b"\xff")
    folder = write(tmp_path / "tgs", unpacked())
    try:
        write(folder, {f"train/images/{odd}.png": b""})
        write(tmp_path / odd, {"notes.txt": b""})
    except OSError:
        pytest.skip("this system knows only UTF-8")
    for source in (folder, tmp_path / odd):
        with pytest.raises(DataError, match=r"\\udcff") as caught:
            data.load_tiles(settings_for(source))
        print(str(caught.value).encode())


def test_set_of_synthetic_tiles_is_not_the_competition(tmp_path):
    folder = write(tmp_path / "tgs", unpacked() | {"sections.csv": b"id,section\n"})
    with pytest.raises(DataError, match=r"sections\.csv: .*SALT_DATA_DIR=synthetic"):
        data.load_tiles(settings_for(folder))


def refuse(*_, **__):
    raise PermissionError(13, "Permission denied", "train")


@pytest.mark.parametrize(
    "opens", ["os.walk", "zipfile.ZipFile", "pathlib.Path.read_bytes"]
)
def test_missing_permission_is_not_called_damage(tmp_path, monkeypatch, opens):
    folder = write(tmp_path / "tgs", inner_zips())
    if opens == "os.walk":
        monkeypatch.setattr(os, "scandir", refuse)
    else:
        monkeypatch.setattr(opens, refuse)
    with pytest.raises(DataError, match="no permission to read it: change its mode"):
        data.load_tiles(settings_for(folder))


def test_zip_with_a_password_is_to_be_unpacked(tmp_path):
    content = bytearray(zipped(dict.fromkeys(unpacked(), b"x")))
    for at in range(len(content) - 4):  # set the flag in both kinds of headers
        if content[at : at + 4] in (b"PK\1\2", b"PK\3\4"):
            content[at + 6 + 2 * (content[at + 2] == 1)] |= 1
    with pytest.raises(
        DataError, match=r"encrypted, password.*: unpack the zip yourself"
    ):
        data.load_tiles(settings_for(write(tmp_path / "tgs", {"a.zip": content})))
