"""A study on a Ray cluster of two nodes on this machine gives the numbers of one in this process."""

import logging

import pytest
import yaml

from kdscope.files import read_json
from kdscope.run import Run
from kdscope.study import load_study
from kdscope.study.conduct import conduct

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def cluster():
    """The address of a cluster of two nodes of one core each."""
    ray = pytest.importorskip("ray")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    made = cluster_utils.Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    made.add_node(**node)
    ray.init(address=made.address, log_to_driver=False, logging_level=logging.ERROR)
    assert len([node for node in ray.nodes() if node["Alive"]]) == 2
    ray.shutdown()
    yield made.address
    made.shutdown()


def test_two_nodes_give_the_numbers_of_one_process(cluster, tmp_path):
    """Bit for bit, down to the table of the analysis: same seeds, one thread each."""
    from kdscope.study.ray_backend import on_ray

    study = load_study("quickstart")
    here = conduct(study, tmp_path / "here", "smoke", jobs=2)
    there = conduct(study, tmp_path / "there", "smoke", train=on_ray(cluster))
    assert not here.failed
    assert not there.failed, there.states
    for cell in here.cells:
        one, other = (Run(done.place.run(cell)) for done in (here, there))
        assert one.path != other.path
        assert {read_json(run.path / "environment.json")["threads"] for run in (one, other)} == {1}
        assert one.summary["weights_hash"] == other.summary["weights_hash"]
        assert one.weights.read_bytes() == other.weights.read_bytes()
        assert _without_time(one.metrics) == _without_time(other.metrics)
    for name in ("fidelity/fidelity.csv", "table.csv"):
        assert (here.place.folder / name).read_bytes() == (there.place.folder / name).read_bytes()


def _without_time(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_a_failure_on_the_cluster_stops_its_students_alone(cluster, tmp_path):
    from kdscope.study.ray_backend import on_ray

    settings = {"data": "digits:8", "model": "resnet8", "epochs": 1, "batch_size": 512, "device": "cpu"}
    runs = {
        "absent": {"settings": {"data": f"folder:{tmp_path}/nothing"}},
        "pupil": {"settings": {"method": "kd"}, "teachers": "absent"},
        "fine": {},
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({"title": "t", "settings": settings, "runs": runs}))
    done = conduct(load_study(path), tmp_path / "root", train=on_ray(cluster))
    assert {name: state.state for name, state in done.states.items()} == {
        "absent-seed0": "failed",
        "pupil-seed0": "waiting",
        "fine-seed0": "done",
    }
