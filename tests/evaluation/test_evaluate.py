"""Evaluation of a model on the arrays of a program."""

import jax.numpy as jnp
import numpy as np
import pytest
import toy

import fedjax_med as fm

_DATA = toy.examples(70)  # more than a batch
EXAMPLES = np.asarray(_DATA.image), np.asarray(_DATA.label)


def test_evaluation_prepares_inputs_as_the_loss_did():
    model, images, labels = toy.model(), *EXAMPLES
    params = toy.params()

    def prepare(inputs, key):
        normal = inputs["image"].astype(jnp.float32) / 255 - jnp.array([[[model.mean]]])
        return normal / jnp.array([[[model.std]]])

    found = fm.evaluate(model, params, {"image": images}, labels, prepare=prepare)
    expected = fm.evaluate(model, params, images, labels)
    assert found["log_loss"] == pytest.approx(expected["log_loss"], rel=1e-4)
    with pytest.raises(fm.UserError, match="expected tta_views to be 1, 2, 4 or 8"):
        fm.evaluate(model, params, images, labels, tta_views=3)


def test_any_tree_of_arrays_is_evaluated_with_its_own_prepare():
    def apply(params, inputs, key):
        return jnp.stack([inputs["dose"][:, 0], inputs["age"]], axis=1)

    model = fm.Model(lambda key, shape: {}, apply)
    inputs = {"dose": np.array([[2.0], [0.0], [3.0]]), "age": np.array([1.0, 1.0, 1.0])}
    found = fm.evaluate(model, {}, inputs, [0, 1, 1], prepare=lambda inputs, key: inputs)
    assert found["confusion_matrix"] == [[1, 0], [1, 1]]


def same(inputs, key):
    return inputs


@pytest.mark.parametrize(
    ("inputs", "prepare", "said"),
    [
        (lambda x: {"image": x}, None, r"got \{'image': \(70, 4, 4, 3\)\}: give `prepare`"),
        (lambda x: x[:, 0, 0], None, r"got \(70, 3\): give `prepare`"),
        (lambda x: x / 255, None, "expected images uint8 .*got float"),
        (lambda x: x[1:], None, r"expected inputs with 70 rows.*\[69, 4, 4, 3\]"),
        (lambda x: {"a": x, "b": x[1:]}, same, "expected inputs with 70 rows"),
        (lambda x: {"a": x, "b": 3}, same, r"expected inputs with 70 rows.*shape \[\]"),
        (lambda x: x[:, :2], None, r"the examples \(\(70, 2, 4, 3\)\) do not fit the model"),
    ],
)
def test_examples_that_do_not_fit_are_refused_in_one_line(inputs, prepare, said):
    images, labels = EXAMPLES
    with pytest.raises(fm.UserError, match=said) as refused:
        fm.evaluate(toy.model(), toy.params(), inputs(images), labels, prepare=prepare)
    assert "\n" not in str(refused.value)


def test_no_examples_are_refused():
    with pytest.raises(fm.UserError, match="expected examples to evaluate the model on, got none"):
        fm.evaluate(toy.model(), toy.params(), EXAMPLES[0][:0], [])


def test_nan_that_a_relu_hides_is_told():
    def apply(params, inputs, key):
        return jnp.where(inputs @ params["w"] > 0, 1.0, 0.0)  # finite whatever it is given

    model, inputs = fm.Model(lambda key, shape: {}, apply), np.ones((70, 2), np.float32)
    good, labels = {"w": np.ones((2, 3), np.float32)}, np.arange(70) % 3
    with pytest.raises(fm.UserError, match=r"expected finite parameters, got NaN .* in w"):
        fm.evaluate(model, {"w": good["w"] * np.nan}, inputs, labels, prepare=same)
    inputs[66, 1] = np.nan
    with pytest.raises(fm.UserError, match="inputs of the examples 64 to 69 hold NaN"):
        fm.evaluate(model, good, inputs, labels, prepare=same)
    whole = lambda inputs, key: jnp.nan_to_num(inputs)  # noqa: E731
    assert fm.evaluate(model, good, inputs, labels, prepare=whole)["n"] == 70
