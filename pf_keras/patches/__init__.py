"""What happens to patches outside the network: cutting, masking, augmentation and targets. All are pure functions."""

import keras  # noqa: F401 - before the modules below, so that pf_keras can register its layers (see pf_keras/__init__.py)

from pf_keras.patches.grid import assemble_patches, extract_patches, gather_patches

__all__ = ["assemble_patches", "extract_patches", "gather_patches"]
