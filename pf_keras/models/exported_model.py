"""Base of the models that `export` and `quantize` without having been called, and that load again when they are quantized."""

import keras

MODES = ("int8", "int4", "float8")  # of `quantize`, which need no data


class ExportedModel(keras.Model):
    """A model that knows its inputs, and how it is quantized."""

    quantization = None  # Keras's config of `quantize`, as JSON
    _default_save_signature = None  # Keras's own takes all inputs for floats

    def export_signature(self) -> list[keras.InputSpec]:
        """The inputs of the exported model."""
        raise NotImplementedError

    def export(self, filepath, format="tf_saved_model", verbose=None, input_signature=None, **kwargs):
        """As Keras's `export`. Without `input_signature` it is that of `export_signature`."""
        if not self.built:
            self.build()
        signature = input_signature or self.export_signature()
        return super().export(filepath, format=format, verbose=verbose, input_signature=signature, **kwargs)

    def quantize(self, mode=None, config=None, filters=None, **kwargs) -> None:
        """As Keras's `quantize`, for the modes in `MODES`. The model can be saved and loaded afterwards.

        Raises:
            ValueError: another mode, or `filters`, which the saved model would not remember.
        """
        if mode not in MODES or filters:
            received = f"mode {mode!r}{' with filters' * bool(filters)}"
            raise ValueError(f"quantize was called with {received}. Use {', '.join(MODES)}, without filters.")
        super().quantize(mode, config=config, **kwargs)
        self.quantization = keras.saving.serialize_keras_object(config)

    def get_config(self) -> dict:
        return {**super().get_config(), **({"quantization": self.quantization} if self.quantization else {})}

    @classmethod
    def _quantized(cls, config: dict, *arguments):
        """The model of a config, quantized as it was when it was saved, so that its weights can be loaded."""
        how = config.pop("quantization", None)
        model = cls(*arguments, **config)
        if how:
            model.build()
            model.quantize(config=keras.saving.deserialize_keras_object(how))
        return model
