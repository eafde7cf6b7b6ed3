"""Five hospitals, the real skin-cancer images with corrected labels: eight classes.

The published class seborrheic keratosis holds melanomas, and 78 files of nevus are actinic
keratoses (docs/isic9.md). Here a table that comes with the package corrects both, in Train and in
Test. Two networks pretrained on ImageNet stay as they are; a linear classifier on the means and
deviations of their layers is trained by federated averaging, in seconds, beside a discriminant in
closed form, from the hospitals' sums.

Run:     fedjax-med train --config=configs/isic9_corrected.py --data_dir=DATA --workdir=runs/eight
         fedjax-med evaluate --workdir=runs/eight
         (with the extra `pretrained`: docs/pretrained.md)
Expect:  balanced accuracy 0.708 +- 0.003 in cross-validation inside Train (five folds that keep the
         photographs of a lesion together, three seeds), 0.636 +- 0.009 on Test; 40 rounds take
         seconds, after the features of all images, once (some ten minutes of one CPU core).
Change:  --config.groups.path=TABLE --config.groups.column=lesion to keep photographs of a lesion
         together; --config.policy=rarest --config.corrections= for the nine classes as published,
         with their wrong labels; --config.corrections=FILE for a table of your own;
         --config.model.options.backbones=efficientnet_lite0 for one network, in half the time;
         --config.operating.prevalence=0.05 for the screening of people of whom 5 % have a melanoma.
"""

from fedjax_med.experiment.config import (
    Augment,
    Checkpoint,
    Client,
    Experiment,
    Loss,
    Operating,
    Spec,
)


def get_config() -> Experiment:
    """The experiment, chosen by cross-validation in folds of lesions (docs/recipe.md)."""
    return Experiment(
        rounds=40,
        dataset=Spec("isic9"),
        image_size=224,  # what the networks were trained with; the images have 180 pixels
        policy="corrected",
        corrections="isic9",
        validation_fraction=0.1,
        # At a new hospital other cameras shift the features. Half of what they are standardised by
        # comes from the images to be predicted, without their labels.
        model=Spec(
            "frozen_layers",
            {
                "backbones": "efficientnet_lite0+efficientnet_lite2",
                "own_statistics": 0.5,
                # A closed form beside the classifier, of the unchanged views: 36 MB of sums from
                # each hospital, once.
                "discriminant": 0.5,
                "shrinkage": 0.2,
                "projection": 3000,
                "discriminant_views": 4,
            },
        ),
        pretrained="imagenet",
        # Four of each image's mirrored views, as they are and once with other light, size and
        # angle: eight passes through both networks, kept for all runs.
        augment=Augment(
            views=4,
            min_scale=0.7,
            brightness=0.15,
            contrast=0.2,
            saturation=0.25,
            hue=0.04,
            copies=1,
        ),
        # Balanced accuracy is what counts: a rare disease must weigh as much as a frequent one.
        loss=Loss(logit_adjustment=1.0),
        client=Client(
            batch_size=32,
            optimizer=Spec("adamw", {"learning_rate": 0.0005, "weight_decay": 0.1}),
        ),
        checkpoint=Checkpoint(tested="last"),
        tta_views=4,
        calibrate=True,
        # What a threshold of 90 % specificity, chosen in validation, finds and misses. That 2 %
        # have a melanoma is an assumption: put the clinic's own share in its place.
        operating=Operating(classes="melanoma", specificity=0.9, prevalence=0.02),
    )
