"""From settings to networks: the data, the teachers, the student and its objective, checked against one another."""

from collections.abc import Sequence

import torch
from torch import nn

from kdscope import models
from kdscope.config import Config, NetworkSettings
from kdscope.data import Dataset, augmentation
from kdscope.data.samplers import check_sampler
from kdscope.errors import KDScopeError
from kdscope.methods import Objective, resolve
from kdscope.methods.method import one_of
from kdscope.methods.objective import changed
from kdscope.methods.term import TrainingData
from kdscope.run import load_data, load_teacher
from kdscope.training.gradients import check_rule
from kdscope.training.learner import Learner
from kdscope.training.ranks import processes
from kdscope.training.tasks import task_of


def prepare(
    config: Config, begun: bool = False, teachers: Sequence[nn.Module] | None = None
) -> tuple[Config, Dataset, Learner]:
    """Load the data and the teachers, build the student and the objective, and check that they fit.

    Args:
        config: of one training; chains of trainings are taken apart before (`kdscope.training.chain`).
        begun: the run has its student's weights in its checkpoint; those that it started from are not asked for.
        teachers: networks that stand in for the config's own, which are not trained yet.

    Returns:
        The config completed (every term with all its settings, every teacher with the hash of its weights), the data,
        and the networks.
    """
    return task_of(config.data.name).prepare(config, begun, teachers)


def prepare_classifier(
    config: Config, begun: bool, teachers: Sequence[nn.Module] | None
) -> tuple[Config, Dataset, Learner]:
    """`prepare` of a classifier."""
    config = written_out(config)
    terms = config.terms
    dataset = load_data(config.data)
    check_sampler(config.data.sampler, dataset.train.labels, config.data.batch_size, processes(config.devices))
    if teachers is None:
        teachers = [load_teacher(teacher, dataset) for teacher in config.teachers]
        hashes = [models.weights_hash(teacher) for teacher in teachers]
        settings = [t.model_copy(update={"weights_hash": h}) for t, h in zip(config.teachers, hashes, strict=True)]
        config = config.model_copy(update={"teachers": tuple(settings)})

    torch.manual_seed(config.seed)
    student = changed(build_network(config.model, dataset, begun), terms)
    peers = [build_network(peer, dataset, begun) for peer in config.peers]
    weights = [teacher.weight for teacher in config.teachers] if len(config.teachers) == len(teachers) else None
    data = TrainingData(dataset.train.labels, dataset.num_classes, config.data.augment)
    objective = Objective(terms, student, teachers, config.ensemble, weights, len(peers), data)
    _check(config, objective)
    learner = Learner(student, objective, teachers, peers)
    learner.build(torch.zeros(2, 3, dataset.image_size, dataset.image_size))
    return config, dataset, learner


def written_out(config: Config) -> Config:
    """The config with all that its method decides: every term with all its settings, the rule for gradients, peers."""
    return task_of(config.data.name).written_out(config)


def written_out_classifier(config: Config) -> Config:
    """`written_out` of a classifier."""
    terms = resolve(config.method, config.terms)
    augmentation(config.data.augment)
    return config.model_copy(update={"terms": terms, "gradients": _rule(config), "peers": _peers(config)})


def build_network(network: NetworkSettings, dataset: Dataset, begun: bool = False) -> nn.Module:
    """A network that is to learn, with the weights that it starts from."""
    built = models.build(
        network.name,
        dataset.num_classes,
        image_size=dataset.image_size,
        pretrained=network.pretrained and not begun,
        **network.options,
    )
    if network.checkpoint is not None and not begun:
        drawn = {name: value.clone() for name, value in built.state_dict().items()}
        models.load_weights(built, network.checkpoint)
        _blend(built, drawn, network.checkpoint_share)
    return built


@torch.no_grad()
def _blend(network: nn.Module, drawn: dict[str, torch.Tensor], share: float) -> None:
    """Start between two points: `share` of the network's own weights, the rest of those `drawn`.

    Stanton et al., NeurIPS 2021, figure 6: theta = lambda theta_teacher + (1 - lambda) theta_random. Statistics of
    batch norm are blended likewise; the first epoch renews them.
    """
    for name, value in network.state_dict().items():
        if share < 1 and value.is_floating_point():
            value.lerp_(drawn[name], 1 - share)


def _rule(config: Config) -> str:
    rule = config.gradients or one_of(config.method, "gradients", "sum")
    check_rule(rule, config.precision)
    return rule


def _peers(config: Config) -> tuple[NetworkSettings, ...]:
    """The networks beside the student: as given, or as many copies of its architecture as the method wants."""
    wanted = one_of(config.method, "peers", 0)
    if config.peers and not wanted and config.method != "custom":
        raise KDScopeError(f"method {config.method!r} has no use for a peer; --peer goes with --method dml")
    return config.peers or (config.model,) * wanted


def _check(config: Config, objective: Objective) -> None:
    share = config.data.batch_size // processes(config.devices)
    if share < objective.least_images:
        raise KDScopeError(
            f"term {objective.most_demanding!r} needs at least {objective.least_images} images in a batch, and a "
            f"device gets {share}; raise --batch-size"
        )
    if config.gradients != "sum" and len(set(objective.task)) < 2:
        raise KDScopeError(
            f"gradients {config.gradients!r} weighs the gradient of the labels against that of the teacher, "
            f"and {', '.join(objective.names)} is one of the two alone"
        )
