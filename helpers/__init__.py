"""Salt segmentation: what the five notebooks share.

Read these first, they are the subject:

- `unet.build_unet`, the U-Net; `encoders`, what its contracting path can be
- `losses`, Dice and Lovasz; `metrics`, the competition's score; `rle`, its masks
- `data`, tiles and folds; `mosaics`, neighboring tiles; `augmentation` and `batches`,
  from tiles to the network's input
- `systems`, one row for each published system: network, losses, rates, augmentation
- `inference`, from networks to masks; `submission`, the file for Kaggle; `plotting`
- `config`, the settings, read from the environment in one place

Behind them is the machinery, in folders:

- `training.fit` trains one row on one fold, resumably, and keeps it as a run
- `synthetic.make_tiles` models geology where there are no data
- `panel.compare` shows runs side by side, interactively
- `backbones` holds ResNet34, SE-ResNeXt and weight files; `utils`, files and hardware
"""
