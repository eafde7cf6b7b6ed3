import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from fedjax_med.client import augmentation
from fedjax_med.evaluation.predict import predict, probabilities

MODEL = toy.model()


@pytest.mark.parametrize("lead", [(1,), (64,), (65,), (3, 50), (2, 0)])
def test_probabilities_are_the_softmax_whatever_the_number_of_images(lead):
    images = toy.examples(*lead).image
    actual = probabilities(MODEL, toy.params(), images)
    assert actual.shape == (*lead, toy.CLASSES)
    flat = augmentation.normalise(images).reshape(int(np.prod(lead)), *toy.IMAGE)
    expected = jax.nn.softmax(MODEL.apply(toy.params(), flat, None)).reshape(actual.shape)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_predict_gives_what_the_model_says_of_every_client():
    data = toy.federation((4, 2))
    predicted = predict(MODEL, toy.params(), data.image)
    assert isinstance(predicted, np.ndarray)
    np.testing.assert_allclose(predicted.sum(-1), 1.0, rtol=1e-5)
    alone = predict(MODEL, toy.params(), data.image[1])
    np.testing.assert_allclose(predicted[1], alone, rtol=1e-5)


def test_new_parameters_do_not_compile_again():
    images = toy.examples(5).image
    probabilities(MODEL, toy.params(), images)
    before = probabilities._cache_size()
    probabilities(MODEL, jax.tree.map(lambda leaf: leaf + 1, toy.params()), jnp.array(images))
    assert probabilities._cache_size() == before


@pytest.mark.parametrize("views", [2, 4, 8])
def test_views_are_all_ways_to_mirror_an_image_and_their_mean_does_not_change_with_them(views):
    images = np.asarray(toy.examples(5).image)
    mirrored = [images, images[:, :, ::-1]]
    if views > 2:
        mirrored += [one[:, ::-1] for one in mirrored]
    if views > 4:
        mirrored += [one.swapaxes(1, 2) for one in mirrored]
    expected = np.mean([predict(MODEL, toy.params(), one) for one in mirrored], axis=0)
    for one in mirrored:
        found = predict(MODEL, toy.params(), one, views)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
