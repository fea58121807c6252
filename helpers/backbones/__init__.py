"""What the pretrained encoders are made of.

ResNet34 and SE-ResNeXt (`resnet`), Keras' Inception-ResNet-v2 with padding
(`inception`), two layers that are fast on a CPU (`layers`), weight files (`weights`).
"""
