import keras

from pf_keras.models.build import build_pretrainer


def count_parameters(config):
    """How many parameters the pre-training model of a `Config` has, without making them."""
    with keras.StatelessScope(initialize_variables=False):
        return build_pretrainer(config).count_params()
