import keras

from pf_keras.augment import scale_pixels
from pf_keras.models.on_backbone import OnBackbone
from pf_keras.patches import extract_patches


@keras.saving.register_keras_serializable("pf_keras")
class Embedder(OnBackbone):
    """A pre-trained backbone's features of whole images: uint8 (B, H, W, 3) -> float32 (B, width); nothing is masked.

    They are the mean of the context, the transformer's output, over the patches. Attention pooling has met
    its query only with a target's position added, until fine-tuning trains it: its vectors probe worse (docs/paper.md).
    The backbone runs as at inference, whatever `training` says. The input may be a dict with the images as `image`.
    """

    def call(self, inputs):
        image = inputs["image"] if isinstance(inputs, dict) else inputs
        context = self.backbone(scale_pixels(extract_patches(image, self.backbone.grid)), training=False)
        return keras.ops.mean(keras.ops.cast(context, "float32"), axis=1)

    def compute_output_shape(self, input_shape):
        shape = input_shape["image"] if isinstance(input_shape, dict) else input_shape
        return shape[0], self.backbone.width
