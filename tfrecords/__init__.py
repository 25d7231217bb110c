"""A tool that writes ImageNet, or any folder of images, into TFRecord shards: build, verify, subsets. See README.md here.

Importing this package does not import TensorFlow.
"""
