"""Trainings that follow one another: teacher assistants between teacher and student, and generations of one network.

Teacher assistants: Mirzadeh et al., "Improved Knowledge Distillation via Teacher Assistant", AAAI 2020. Generations:
Furlanello et al., "Born-Again Neural Networks", ICML 2018. Each link is a run directory of its own in `chain/` of the
last one's, so that it can be stopped, resumed and analysed like any other.
"""

import re
from pathlib import Path

from kdscope.config import Config, TeacherSettings

SEED_STEP = 100_003  # between the seeds of links, so that each starts from weights of its own


def links(config: Config, place: Path) -> list[tuple[Path, Config]]:
    """The trainings before the last, with the run directories that they have in `place`, the last one's.

    The first learns from the config's teachers, or alone where a chain of generations has none; each other from the one
    before it.
    """
    if config.chain == "assistants":
        networks = list(config.assistants)
    elif config.chain == "generations":
        networks = [config.model] * (config.generations - 1 + (not config.teachers))
    else:
        networks = []
    made: list[tuple[Path, Config]] = []
    for k, network in enumerate(networks):
        own = {"model": network, "chain": "none", "assistants": (), "generations": 1}
        own["seed"] = (config.seed + SEED_STEP * (len(networks) - k)) % 2**32
        if made:
            own["teachers"] = (TeacherSettings(run=made[-1][0]),)
        elif not config.teachers:
            own |= {"method": "none", "terms": {}, "peers": (), "gradients": None, "probe": "cache"}
        name = f"{k + 1}-{re.sub('[^A-Za-z0-9_.-]+', '-', network.name)}"
        made.append((place / "chain" / name, config.model_copy(update=own)))
    return made
