"""What the pretrained encoders are made of: networks, layers, weight files."""
