"""Pretrained networks that are not trained, and a classifier on what several of their layers see.

The last layer of a network trained on photographs sees objects; textures and colours, on which the
diagnosis of a lesion depends, are in the layers below. Of each layer the mean and the standard
deviation of every channel over the image describe them as a texture (Gatys et al., NeurIPS 2015,
with all correlations). A linear classifier on the layers of several networks then often does as
well as training one of them (Evci et al., "Head2Toe", ICML 2022), and its rounds send few numbers.

Beside it may stand a discriminant in closed form (`_discriminant`): where there are more values
than images, each of both is right about images that the other takes for another class.
"""

import jax
import jax.numpy as jnp

from fedjax_med.core.model import Model
from fedjax_med.core.types import Array, Key, Params
from fedjax_med.errors import UserError
from fedjax_med.models import _backbones, _discriminant, _standardise


def build(
    num_classes: int,
    *,
    backbones: str = "efficientnet_lite0+efficientnet_lite2",
    hidden: int = 0,
    dropout: float = 0.0,
    own_statistics: float = 0.0,
    discriminant: float = 0.0,
    shrinkage: float = 0.3,
    projection: int = 0,
    discriminant_views: int = 0,
) -> Model:
    """Build a classifier of the layers of frozen `backbones`, standardised value by value.

    Means and deviations are those of all clients' training images, from sums over the clients.
    The trained model's input is the frozen part's output, [B, 1, 1, D]; its first logits are 0.

    Args:
        num_classes: K, the number of logits.
        backbones: names of the frozen networks, with ``+`` between them.
        hidden: units of a hidden layer, with a ReLU; 0: none, the classifier is linear.
        dropout: probability that a value is zeroed before the classifier, in training.
        own_statistics: in evaluation, the share of the mean and deviation over a site's own images
            in those that its images are standardised by (Li et al., "AdaBN", Pattern Recognition
            2018; Schneider et al., NeurIPS 2020); 0: those of training alone.
        discriminant: factor of the scores of a shrinkage discriminant in the logits of evaluation,
            from the sums of the clients' products of values; 0: there is none.
        shrinkage: in (0, 1], the share of the identity in the discriminant's covariance.
        projection: P, the values that a random projection leaves for the discriminant, whose sums
            are [P, P] for each client; 0: all D.
        discriminant_views: how many of each image's views the discriminant is fitted to, the first
            of them; 0: all.

    Raises:
        UserError: An option is out of range or, in the frozen part's ``init``, the image is too
            small.
    """
    _check(hidden, dropout, own_statistics)
    _discriminant.check(discriminant, shrinkage, projection, discriminant_views)
    frozen, size = _backbones.side_by_side(tuple(backbones.split("+")))

    def init(key: Key, image_shape: tuple[int, int, int]) -> Params:
        del image_shape  # images of every size have as many features
        zeros, width = jnp.zeros, hidden or size
        params = {
            _standardise.NAME: _standardise.init(size),
            "classifier": {"kernel": zeros((width, num_classes)), "bias": zeros(num_classes)},
        }
        if hidden:
            kernel = jax.nn.initializers.he_normal()(key, (size, hidden))
            params["hidden"] = {"kernel": kernel, "bias": zeros(hidden)}
        return params

    def features(params: Params, images: Array, key: Key | None) -> Array:
        values = _standardise.apply(params[_standardise.NAME], images.reshape(images.shape[0], -1))
        if hidden:
            values = jax.nn.relu(_dense(params["hidden"], values))
        return values if key is None else _dropped(values, dropout, key)

    def apply(params: Params, images: Array, key: Key | None) -> Array:
        return _dense(params["classifier"], features(params, images, key))

    model = Model(
        init,
        apply,
        frozen.mean,
        frozen.std,
        pretrained=lambda tensors, params: params,
        frozen=frozen,
        features=features,
        networks=frozen.networks,
        statistics=_standardise.STATISTICS,
        fixed=(_standardise.NAME,),
        own_statistics=own_statistics,
    )
    sums = _discriminant.statistics(size, num_classes, shrinkage, projection, discriminant_views)
    return _discriminant.beside(model, discriminant, size, num_classes, sums)


def _check(hidden: int, dropout: float, own_statistics: float) -> None:
    of = "expected model frozen_layers to have"
    if hidden < 0:
        raise UserError(f"{of} hidden of at least 0, got {hidden}.")
    if not 0 <= dropout < 1:
        raise UserError(f"{of} dropout in [0, 1), got {dropout}.")
    if not 0 <= own_statistics <= 1:
        raise UserError(f"{of} own_statistics in [0, 1], got {own_statistics}.")


def _dense(layer: Params, values: Array) -> Array:
    result: Array = values @ layer["kernel"] + layer["bias"][None]
    return result


def _dropped(values: Array, dropout: float, key: Key) -> Array:
    if not dropout:
        return values
    kept = jax.random.bernoulli(key, 1.0 - dropout, values.shape)
    return jnp.where(kept, values / (1.0 - dropout), 0.0)
