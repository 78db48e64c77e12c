"""The stages of YunMin EfficientData, one folder each: assets on top, pure modules beside them."""
