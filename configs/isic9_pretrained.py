"""Five hospitals, the real skin-cancer images, a network that was trained on ImageNet.

The variant `fast` is smaller: 180 pixels, no changed copies, fewer rounds.

Run:     fedjax-med train --config=configs/isic9_pretrained.py --data_dir=DATA --workdir=runs/best
         fedjax-med evaluate --workdir=runs/best
         fedjax-med train --config=configs/isic9_pretrained.py:fast --data_dir=DATA
         (with the extra `pretrained`: docs/pretrained.md)
Expect:  balanced accuracy 0.644 +- 0.020 in cross-validation inside Train (five folds), and
         0.620 +- 0.014 on Test (three seeds), after 6.7 to 10.8 minutes of training on one
         CPU core (docs/results.md). What the frozen blocks make of the images is computed
         first, once: about 20 minutes on one core.
         fast: 0.628 +- 0.032 and 0.580 +- 0.016, after 3.7 to 4.3 minutes; before that, 3 minutes.
Change:  --config.model.options.frozen_blocks=8 to train more of the network, at three times the
         cost; --config.policy=keep to train on the set as published, with its wrong labels;
         --config.seed=1 for another seed.
"""

from fedjax_med.experiment.config import Augment, Checkpoint, Client, Experiment, Loss, Spec
from fedjax_med.experiment.variants import Variant, choose

VARIANTS = {
    "fast": Variant(
        "The recipe, smaller: images as they are published, no changed copies, fewer rounds",
        {"name": "isic9_fast", "image_size": 180, "rounds": 12, "augment.copies": 0},
        0.580,
    )
}


def get_config(variant: str = "") -> Experiment:
    """The experiment, chosen by cross-validation inside Train (docs/recipe.md), or a variant."""
    base = Experiment(
        rounds=20,
        dataset=Spec("isic9"),
        image_size=224,  # what the network was trained with; the images have 180 pixels
        validation_fraction=0.1,
        model=Spec("efficientnet_lite0", {"frozen_blocks": 12}),
        pretrained="imagenet",
        # The frozen blocks see each image 32 times, once: 8 mirrored views and 3 changed copies of
        # each, which takes longer than 20 rounds do and serves every run on the same images.
        augment=Augment(copies=3),
        # Balanced accuracy is what counts: a rare disease must weigh as much as a frequent one.
        loss=Loss(logit_adjustment=1.0),
        client=Client(
            batch_size=16,
            optimizer=Spec("adamw", {"learning_rate": 0.002, "b2": 0.99, "weight_decay": 1e-4}),
            backbone_rate=0.2,  # the classifier begins at random, the rest does not
        ),
        ema_decay=0.5,
        checkpoint=Checkpoint(tested="last"),
        tta_views=8,
        calibrate=True,
    )
    return choose(base, VARIANTS, variant)
