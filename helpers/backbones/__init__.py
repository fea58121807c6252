"""Pretrained families: ResNet34, SE-ResNeXt, fast CPU layers, weight files."""
