"""Five clients and the embedded synthetic set: the job of ``make train``, and its variants.

A variant has the name of the method that it shows; VARIANTS says what it changes.

Run:     fedjax-med train --config=configs/lesions.py --evaluate
         fedjax-med train --config=configs/lesions.py:fed_adam --evaluate
Expect:  balanced accuracy 0.895 on its test set after about a minute of training on two CPU cores,
         or that of the variant (docs/variants.md) after one to three minutes on one (dp_sgd: 5).
         Where clients have models of their own, all of these are tested together.
Change:  --config.partition.name=dirichlet for clients that differ in their mix of classes, and
         --config.partition.options.alpha=... for more (small) or less of it;
         --config.aggregator.name=mean to see what a hostile client does without the defence;
         --config.attacks= for honest clients; --config.privacy.target_epsilon=2 for more noise;
         --config.seed=1 for another seed.
"""

from typing import Any

from fedjax_med.experiment.config import Client, Experiment, Participation, Privacy, Spec
from fedjax_med.experiment.variants import Variant, choose


def _sgd(learning_rate: float, **options: float) -> Spec:
    return Spec("sgd", {"learning_rate": learning_rate, **options})


def _server(name: str, learning_rate: float, **options: float) -> dict[str, Any]:
    return {"server_optimizer": Spec(name, {"learning_rate": learning_rate, **options})}


def _sign_flip(name: str, **options: Any) -> dict[str, Any]:
    """The changes for an aggregator, against one client that sends the opposite."""
    attack = Spec("sign_flip", {"clients": (0,), "scale": 10.0})
    return {"rounds": 10, "attacks": [attack], "aggregator": Spec(name, options)}


def _attack(name: str, **options: Any) -> dict[str, Any]:
    """The changes for one hostile client."""
    return {"rounds": 10, "attacks": [Spec(name, {"clients": (0,), **options})]}


def _transform(name: str, **options: Any) -> dict[str, Any]:
    return {"rounds": 10, "transforms": [Spec(name, options)]}


_UNEVEN = {"rounds": 10, "partition": Spec("dirichlet", {"alpha": 0.3})}
_THREE_CLASSES = {"rounds": 10, "partition": Spec("labels_per_client", {"k": 3})}
_FOUR_CLASSES = {"rounds": 10, "partition": Spec("labels_per_client", {"k": 4})}
_CFL = Spec("cfl", {"clusters": 2, "mean_norm": 1.0, "max_norm": 2.0})
_BOUNDED = {"aggregator": Spec("norm_bounded_mean")}
_REDDI = 'Reddi et al., ICLR 2021, "Adaptive Federated Optimization"'
_YIN = 'Yin et al., ICML 2018, "Byzantine-Robust Distributed Learning"'
_STICH = 'Stich et al., NeurIPS 2018, "Sparsified SGD with Memory"'
_BLANCHARD = 'Blanchard et al., NeurIPS 2017, "Machine Learning with Adversaries"'
_MCMAHAN = 'McMahan et al., ICLR 2018, "Learning Differentially Private Recurrent Language Models"'
_ANDREW = 'Andrew et al., NeurIPS 2021, "Differentially Private Learning with Adaptive Clipping"'
_BAGDASARYAN = 'Bagdasaryan et al., AISTATS 2020, "How To Backdoor Federated Learning"'
_SUN = 'Sun et al., 2019, "Can You Really Backdoor Federated Learning?"'
_ABADI = 'Abadi et al., CCS 2016, "Deep Learning with Differential Privacy"'

VARIANTS = {
    "fed_avgm": Variant(
        'FedAvgM: SGD with momentum on the server. Hsu et al., 2019, "Measuring the Effects of '
        'Non-Identical Data Distribution for Federated Visual Classification"',
        # A steady direction gets a step of size learning_rate / (1 - momentum).
        _server("sgd", 0.5, momentum=0.5),
        0.883,
    ),
    "fed_adagrad": Variant(
        f"FedAdagrad: Adagrad on the server, whose steps shrink by the rounds. {_REDDI}",
        _server("fed_adagrad", 0.02),
        0.889,
    ),
    "fed_adam": Variant(
        "FedAdam: Adam on the server. More rounds allow more momentum (b1); a smaller tau adapts "
        f"more. {_REDDI}",
        # No bias correction: early steps are up to 1 / sqrt(1 - b2) = 10 times the rate.
        _server("fed_adam", 0.005, b1=0.5, b2=0.99),
        0.917,
    ),
    "fed_yogi": Variant(
        f"FedYogi: Yogi on the server; else as fed_adam. {_REDDI}",
        _server("fed_yogi", 0.005, b1=0.5, b2=0.99),
        0.914,
    ),
    # Algorithms with one model, on clients that differ (client.epochs=5: that drift further).
    "fed_prox": Variant(
        "FedProx: a pull towards the global model (mu=0: FedAvg). Li et al., MLSys 2020, "
        '"Federated Optimization in Heterogeneous Networks"',
        _UNEVEN | {"algorithm": Spec("fed_prox", {"mu": 0.01})},
        0.619,
    ),
    "scaffold": Variant(
        "Control variates against the drift of clients that step by plain SGD. Karimireddy et al., "
        'ICML 2020, "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning"',
        _UNEVEN | {"algorithm": Spec("scaffold"), "client.optimizer": _sgd(0.1)},
        0.606,
    ),
    "fed_nova": Variant(
        'FedNova: updates normalised by their steps. Wang et al., NeurIPS 2020, "Tackling the '
        'Objective Inconsistency Problem in Heterogeneous Federated Optimization"',
        _UNEVEN | {"algorithm": Spec("fed_nova"), "client.optimizer": _sgd(0.05, momentum=0.5)},
        0.641,
    ),
    "fed_dyn": Variant(
        "FedDyn: a regulariser that changes every round (a smaller alpha lets clients go further). "
        'Acar et al., ICLR 2021, "Federated Learning Based on Dynamic Regularization"',
        _UNEVEN | {"algorithm": Spec("fed_dyn", {"alpha": 0.1}), "client.optimizer": _sgd(0.1)},
        0.790,
    ),
    "moon": Variant(
        "MOON: features drawn to the global model's (mu=0: FedAvg; 5, 10: strongly). Li, He, Song, "
        'CVPR 2021, "Model-Contrastive Federated Learning"',
        _UNEVEN | {"algorithm": Spec("moon", {"mu": 1.0, "temperature": 0.5})},
        0.622,
    ),
    # Algorithms by which clients have models of their own.
    "fed_bn": Variant(
        "Each client normalises in its own way; local=... keeps other leaves there. Li et al., "
        'ICLR 2021, "FedBN: Federated Learning on Non-IID Features via Local Batch Normalization"',
        _UNEVEN | {"algorithm": Spec("fed_bn")},
        0.660,
    ),
    "ditto": Variant(
        "A model for each client, near the global one (weight=0: alone; large: global). Li et al., "
        'ICML 2021, "Ditto: Fair and Robust Federated Learning Through Personalization"',
        _UNEVEN | {"algorithm": Spec("ditto", {"weight": 0.1})},
        0.721,
    ),
    "apfl": Variant(
        "APFL: each client mixes the global model (alpha=0) with its own (1); adapt=0 fixes "
        'alpha. Deng et al., 2020, "Adaptive Personalized Federated Learning"',
        _UNEVEN | {"algorithm": Spec("apfl", {"alpha": 0.5, "adapt": 0.01})},
        0.698,
    ),
    "fed_per": Variant(
        "FedPer: a classifier for each client, which has three classes. Arivazhagan et al., 2019, "
        '"Federated Learning with Personalization Layers"',
        _THREE_CLASSES | {"algorithm": Spec("fed_per")},
        0.470,
    ),
    "fed_rep": Variant(
        "FedRep: each client trains its classifier, then the shared body. Collins et al., ICML "
        '2021, "Exploiting Shared Representations for Personalized Federated Learning"',
        _THREE_CLASSES | {"algorithm": Spec("fed_rep", {"head_epochs": 5})},  # 10 in the paper
        0.425,
    ),
    "ifca": Variant(
        "IFCA: two models, each client trains the one that suits it (clusters=1: FedAvg). Ghosh "
        'et al., NeurIPS 2020, "An Efficient Framework for Clustered Federated Learning"',
        _FOUR_CLASSES | {"algorithm": Spec("ifca", {"clusters": 2, "spread": 0.5})},
        0.695,
    ),
    "cfl": Variant(
        "Clients that disagree part; earlier with a larger mean_norm or a smaller max_norm. "
        'Sattler, Müller, Samek, IEEE TNNLS 2021, "Clustered Federated Learning"',
        _FOUR_CLASSES | {"algorithm": _CFL},
        0.730,
    ),
    # Fair aggregators, on clients that differ.
    "q_fair": Variant(
        "q-FedAvg: larger losses weigh more (q=0: the uniform mean; 5: about as fair as it gets). "
        'Li et al., ICLR 2020, "Fair Resource Allocation in Federated Learning"',
        # 1 / L of clients that train by SGD; with Adam, 10 leaves steps nearly as long as the mean.
        _UNEVEN | {"aggregator": Spec("q_fair", {"q": 1.0, "learning_rate": 10.0})},
        0.644,
    ),
    "agnostic": Variant(
        "Minimax weights, for the worst client; step_size is how fast they move to large losses. "
        'Mohri et al., ICML 2019, "Agnostic Federated Learning"',
        _UNEVEN | {"aggregator": Spec("agnostic", {"step_size": 0.3})},
        0.638,
    ),
    # Robust aggregators, against one client that sends the opposite.
    "median": Variant(f"The median of each coordinate. {_YIN}", _sign_flip("median"), 0.657),
    "trimmed_mean": Variant(
        f"The mean of each coordinate without its extremes. {_YIN}",
        _sign_flip("trimmed_mean", share=0.2),
        0.663,
    ),
    "geometric_median": Variant(
        "RFA, by Weiszfeld's algorithm. Pillutla et al., IEEE TSP 2022, "
        '"Robust Aggregation for Federated Learning"',
        _sign_flip("geometric_median", iterations=5, smoothing=1e-6),
        0.679,
    ),
    "krum": Variant(
        f"Multi-Krum; keep=1 is Krum, which learns from one client a round. {_BLANCHARD}",
        _sign_flip("krum", hostile=1, keep=3),
        0.689,
    ),
    "bulyan": Variant(
        "Bulyan, with seven clients; fewer it does not take. El Mhamdi et al., ICML 2018, "
        '"The Hidden Vulnerability of Distributed Learning in Byzantium"',
        _sign_flip("bulyan", hostile=1) | {"num_clients": 7},
        0.632,
    ),
    "norm_bounded_mean": Variant(
        f"The mean of messages of bounded norm; 0 stands for the median of their norms. {_SUN}",
        _sign_flip("norm_bounded_mean", norm=0.0),
        0.613,
    ),
    # Attacks by one client of five.
    "label_flip": Variant(
        "Wrong labels, against the mean (median bears it). Tolpegin et al., ESORICS 2020, "
        '"Data Poisoning Attacks Against Federated Learning Systems"',
        _attack("label_flip"),
        0.673,
    ),
    "gaussian_noise": Variant(
        f"Noise instead of an update, against the mean (krum bears it). {_BLANCHARD}",
        _attack("gaussian_noise", std=1.0),
        0.111,
    ),
    "inner_product": Variant(
        "An update that turns the mean around, against the mean (geometric_median bears it). Xie, "
        'Koyejo, Gupta, UAI 2019, "Fall of Empires"',
        _attack("inner_product", epsilon=10.0),
        0.111,
    ),
    "scaled_update": Variant(
        f"Ten times its update, against the mean (norm_bounded_mean bears it). {_BAGDASARYAN}",
        _attack("scaled_update", scale=10.0),
        0.248,
    ),
    "backdoor": Variant(
        "Images with a trigger, against a bounded norm. A larger share or size is louder; a second "
        f"attack, scaled_update, is the paper's replacement of the model. {_BAGDASARYAN}; the "
        f"defence: {_SUN}",
        _attack("backdoor", target=0, size=8, share=0.5) | _BOUNDED,
        0.654,
        {"backdoor_success": 0.129},
    ),
    # Transforms of the messages.
    "clip": Variant(f"Clipping to an l2 norm. {_MCMAHAN}", _transform("clip", norm=1.0), 0.641),
    "adaptive_clip": Variant(
        f"Clipping to the median norm (quantile=0.9: only the longest), without privacy. {_ANDREW}",
        _transform("adaptive_clip", quantile=0.5, norm=1.0, rate=0.2),
        0.648,
    ),
    "low_precision": Variant(
        'Messages in bfloat16. Micikevicius et al., ICLR 2018, "Mixed Precision Training"',
        _transform("low_precision", kind="bfloat16"),  # float16: more digits, a smaller range
        0.708,
    ),
    "quantize": Variant(
        "Four bits for each value; with fewer, rotate=True for a smaller error. Alistarh et al., "
        'NeurIPS 2017, "QSGD"; Suresh et al., ICML 2017 (rotate)',
        _transform("quantize", bits=4),
        0.708,
    ),
    "random_k": Variant(
        f"A tenth of the values, random ones; without error_feedback unbiased. {_STICH}",
        _transform("random_k", share=0.1),
        0.432,
    ),
    "top_k": Variant(
        f"A tenth of the values, the largest; without error_feedback the rest is lost. {_STICH}",
        _transform("top_k", share=0.1),
        0.613,
    ),
    # Differential privacy (docs/privacy.md); unit=none with target_epsilon=0: none.
    "dp_fed_avg": Variant(
        "Private FedAvg with one client as the unit: fifty small hospitals, since noise would bury "
        f"the mean of five; the clip follows the median norm. {_MCMAHAN}; {_ANDREW}",
        {
            "num_clients": 50,
            "participation": Participation(participation_rate=0.5, on_invalid="skip"),
            # The noise is the same on every parameter: a smaller network has less of it.
            "image_size": 32,
            "model": Spec("cnn", {"widths": (8, 16, 32), "groups": 4}),
            "client.optimizer": _sgd(0.1),
            "client.epochs": 2,
            "privacy": Privacy(unit="client", clip_norm=0.5, target_epsilon=8.0, quantile=0.5),
        },
        0.263,
        {"epsilon": 7.99},
    ),
    "dp_sgd": Variant(
        "DP-SGD within FedAvg, with one image as the unit: each hospital clips every gradient and "
        f"adds noise itself, so that not even the server can tell an image. {_ABADI}",
        {
            "client.batch_size": 64,  # the noise is divided by it
            "client.optimizer": _sgd(0.2, momentum=0.9),
            "privacy": Privacy(unit="example", clip_norm=1.0, target_epsilon=8.0),
        },
        0.359,
        {"epsilon": 7.99},
    ),
}


def get_config(variant: str = "") -> Experiment:
    """The experiment, or one of its variants."""
    base = Experiment(
        name=variant,
        rounds=20,
        dataset=Spec("lesions"),
        client=Client(batch_size=16, optimizer=Spec("adamw", {"learning_rate": 0.002})),
    )
    return choose(base, VARIANTS, variant)
