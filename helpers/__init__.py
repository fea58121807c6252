"""Salt segmentation: what the five notebooks share.

Read these first, they are the subject:

- `unet.build_unet`, the U-Net; `encoders`, what its contracting path can be
- `losses`, Dice and Lovasz; `metrics`, the competition's score; `rle`, its masks
- `data`, tiles and folds; `mosaics`, neighbors; `augmentation`, `batches`, inputs
- `systems`, one row for each published system: network, losses, rates, augmentation
- `inference`, from networks to masks; `submission`, the file for Kaggle; `plotting`
- `config`, the settings, read from the environment in one place

Behind them is the machinery, in folders:

- `training.fit` trains one row on one fold, resumably, and keeps it as a run
- `synthetic.make_tiles` models geology where there are no data
- `panel.compare` shows runs side by side, interactively
- `backbones` holds ResNet34, SE-ResNeXt and weight files; `utils`, files and hardware
"""

from pathlib import Path as _Path
from zipfile import ZipFile as _ZipFile

_here = _Path(__file__).absolute().parent
if not _here.is_dir():  # imported from the course's zip: unpack that beside itself
    _zip = next(path for path in _here.parents if path.is_file())
    _copy = _zip.parent / "salt-course" / _zip.stem
    try:
        _ZipFile(_zip).extractall(_copy)
    except Exception as error:  # zlib and zipfile raise many kinds
        remedy = "upload it again and restart, or set SALT_REPOSITORY"
        raise SystemExit(f"{_zip} cannot be unpacked ({error}): {remedy}") from None
    __path__ = [str(_copy / _here.relative_to(_zip))]
