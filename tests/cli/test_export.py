"""`kdscope export`: what stands in the files, that they run elsewhere, and what is refused."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import safetensors
import torch
from click.testing import CliRunner
from torch import nn

import kdscope
from kdscope import exporting, graphs, models
from kdscope.cli.export import export
from kdscope.config import TeacherSettings
from kdscope.data import Batches
from kdscope.errors import KDScopeError
from kdscope.methods import METHODS, Method
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.letkd import kd_layers
from kdscope.methods.term import Term
from kdscope.run import load_teacher

QUICK = {"data": "digits:8", "model": "resnet8", "batch_size": 256, "epochs": 1, "optim": {"lr": 0.1}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return kdscope.train(tmp_path_factory.mktemp("runs") / "student", **QUICK)


def images(count=6, size=8):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(4))


def logits(network, x):
    with torch.no_grad():
        return network(x)


ELSEWHERE = """
import json, sys
sys.modules["kdscope"] = None  # importing it raises
import numpy, torch
images, expected = torch.from_numpy(numpy.load("images.npy")), numpy.load("logits.npy")
said, told = {}, {"kdscope.json": ""}
module = torch.jit.load("student.pt", _extra_files=told)
said["torchscript"] = module(images).detach().numpy(), json.loads(told["kdscope.json"])
program = torch.export.load("student.pt2", extra_files=told)
said["exported"] = program.module()(images).detach().numpy(), json.loads(told["kdscope.json"])
try:
    import onnxruntime
    session = onnxruntime.InferenceSession("student.onnx")
    metadata = session.get_modelmeta().custom_metadata_map
    said["onnx"] = session.run(None, {"images": images.numpy()})[0], metadata
except ImportError:
    pass
assert not any(name.startswith("kdscope.") for name in sys.modules)
print(json.dumps({name: [float(abs(got - expected).max()), metadata] for name, (got, metadata) in said.items()}))
"""


def test_graphs_run_where_there_is_no_kdscope(run, tmp_path):
    x = images()
    np.save(tmp_path / "images.npy", x.numpy())
    np.save(tmp_path / "logits.npy", logits(run.model(), x).numpy())
    formats = {"torchscript": "student.pt", "exported": "student.pt2"}
    if _has_onnx():
        formats["onnx"] = "student.onnx"
    for name, file in formats.items():
        done = kdscope.export(run, out=tmp_path / file)
        assert (done.format, done.path) == (name, tmp_path / file)
        assert done.difference <= 1e-5
    command = [sys.executable, "-W", "ignore", "-c", ELSEWHERE]
    told = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    said = json.loads(told.splitlines()[-1])
    assert said.keys() == formats.keys()
    for gap, metadata in said.values():
        assert gap <= 1e-5
        assert metadata == exporting.describe(run, run.model())
    assert json.loads(metadata["classes"]) == [str(k) for k in range(10)]
    assert json.loads(metadata["mean"]) == list(run.dataset().mean)
    assert metadata["weights_hash"] == run.summary["weights_hash"]
    assert (metadata["architecture"], metadata["method"], metadata["image_size"]) == ("resnet8", "none", "8")


def _has_onnx():
    try:
        import onnxruntime
        import onnxscript
    except ImportError:
        return False
    return bool(onnxruntime and onnxscript)


def test_safetensors_is_a_teacher_by_name_and_file(run, tmp_path):
    done = kdscope.export(run, out=tmp_path / "student.safetensors")
    assert done.difference == 0.0
    network = load_teacher(TeacherSettings.parse(f"resnet8@{done.path}"), run.dataset())
    assert models.weights_hash(network) == run.summary["weights_hash"]
    with safetensors.safe_open(done.path, "pt") as file:
        assert file.metadata() == exporting.describe(run, network)


@pytest.mark.parametrize("format", ["torchscript", "exported"])
def test_a_graph_that_normalises_takes_pixels(run, tmp_path, format):
    done = kdscope.export(run, format, tmp_path / "student", normalise=True)
    dataset = run.dataset()
    batch = next(iter(Batches(dataset.test, dataset, batch_size=7).epoch()))
    pixels = dataset.test.images[batch.index].float() / 255
    got = logits(graphs.READERS[format](done.path), pixels)
    torch.testing.assert_close(got, logits(run.model(), batch.image), atol=1e-5, rtol=0)
    assert "RGB, pixels / 255" in done.metadata["input"]


SLOW = pytest.mark.slow
NETWORKS = ["resnet8", "vgg8", "wrn-10-1", "vit", *(
    pytest.param(name, marks=SLOW) for name in ("shufflenetv2", "mobilenetv2_half", "vit_tiny"))]  # fmt: skip


@pytest.mark.parametrize("format", ["torchscript", "exported", pytest.param("onnx", marks=SLOW)])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_say_the_same_in_any_number_of_images(name, format, tmp_path):
    if format == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    torch.manual_seed(5)
    network = models.vit.ViT(24, 5, num_classes=10) if name == "vit" else models.build(name, 10)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the statistics of this batch, so that the logits depend on the images
    logits(network, torch.randn(16, 3, 32, 32))
    whole = exporting.Alone(network).eval().requires_grad_(False)
    x = images(7, 32)
    expected = logits(whole, x)
    assert expected.std(0).max() > 1e-2
    path = tmp_path / "file"
    path.write_bytes(graphs.WRITERS[format](whole, (3, 32, 32), "dynamic", None, {}))
    got = logits(graphs.READERS[format](path), x)
    assert float((got - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))


class Scaled(Term):
    """Puts a layer behind the student."""

    name = "test-scaled"
    reads = "labels"
    changes_student = True

    def change(self, student):
        student.classifier_scale = nn.Parameter(torch.full((), 2.0))
        student.register_forward_hook(lambda module, inputs, output: output * module.classifier_scale)
        return student

    def forward(self, student, teacher, batch):
        return student.logits.float().mean()


@pytest.fixture
def changed(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS._entries, "test-scaled", Method({CrossEntropy: 1.0, Scaled: 1.0}, "s", "a test"))
    return kdscope.train(tmp_path / "changed", method="test-scaled", **QUICK)


@pytest.mark.parametrize("format", ["safetensors", "torchscript", "exported", "onnx"])
def test_what_a_method_put_into_the_student_is_in_the_file(changed, format, tmp_path):
    if format == "onnx" and not _has_onnx():
        pytest.skip("no onnxruntime")
    done = kdscope.export(changed, format, tmp_path / "file")
    assert done.difference <= 1e-5
    assert list(json.loads(done.metadata["changed_by"])) == ["test-scaled"]
    plain, x = models.build("resnet8", 10), images()
    state = changed.model().state_dict()
    scale = state.pop("classifier_scale")
    plain.load_state_dict(state)
    expected = logits(plain.eval(), x) * scale
    if format == "safetensors":
        assert safetensors.torch.load_file(done.path)["classifier_scale"] == scale
    else:
        torch.testing.assert_close(logits(graphs.READERS[format](done.path), x), expected, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def decided(tmp_path_factory):
    """A student with two KD layers; its teacher and what was computed of it are gone."""
    folder = tmp_path_factory.mktemp("letkd")
    terms = {"letkd": {"codes": 24, "subclasses": 2, "value_scale": 5.0}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDSCOPE_CACHE", str(folder / "cache"))
        teacher = kdscope.train(folder / "teacher", **QUICK)
        done = kdscope.train(folder / "decided", method="letkd-2", teachers=[teacher], terms=terms, **QUICK)
    shutil.rmtree(teacher.path)
    shutil.rmtree(folder / "cache")
    return done


@pytest.mark.parametrize("format", ["safetensors", "torchscript", "exported", "onnx"])
def test_the_layers_of_letkd_are_in_the_file_and_need_no_teacher(decided, format, tmp_path):
    """Logits of all test images as the run's own network gives them, which are right as often as the run said."""
    if format == "onnx" and not _has_onnx():
        pytest.skip("no onnxruntime")
    done = kdscope.export(decided, format, tmp_path / "file")
    assert done.difference <= 1e-5
    assert list(json.loads(done.metadata["changed_by"])) == ["letkd"]
    network, data = decided.model(), decided.dataset()
    (batch,) = Batches(data.test, data, batch_size=len(data.test)).epoch()
    expected = logits(network, batch.image)
    right = (expected.argmax(1) == batch.label).float().mean().item()
    assert right == pytest.approx(decided.summary["test_accuracy"], abs=1e-6)
    layers = dict(kd_layers(network))
    assert list(layers) == ["layer3.0.kd_intermediate", "layer3.kd_penultimate"]
    if format == "safetensors":
        kept = safetensors.torch.load_file(done.path)
        for name, layer in layers.items():
            for key, value in layer.state_dict().items():
                assert torch.equal(kept[f"{name}.{key}"], value)
        return
    got = logits(graphs.READERS[format](done.path), batch.image)
    assert float((got - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))
    for layer in layers.values():
        layer.alpha = 0.0
    assert float((got - logits(network, batch.image)).abs().max()) > 0.1  # what the file holds is not the rest alone


@pytest.mark.parametrize(("batch", "shape"), [("1", [1, 3, 8, 8]), ("dynamic", ["batch", 3, 8, 8])])
def test_the_batch_axis_of_onnx(run, batch, shape, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    kdscope.export(run, "onnx", tmp_path / "file", batch=batch)
    session = onnxruntime.InferenceSession(tmp_path / "file")
    (image,), (answer,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.shape) == ("images", shape)
    assert (answer.name, answer.shape) == ("logits", [shape[0], 10])


def call(*arguments):
    return CliRunner().invoke(export, [str(a) for a in arguments], catch_exceptions=False)


def test_the_command_says_where_and_how_far(run):
    result = call(run.path, "--format", "torchscript")
    first, second = result.output.splitlines()
    assert first.startswith(f"{run.path / 'export' / 'student.pt'}: torchscript, ")
    assert "largest difference from the network's logits " in first
    assert float(first.split()[-1]) <= 1e-5
    assert second == "images: float32 [B, 3, 8, 8], RGB, (pixels / 255 - mean) / std -> logits: float32 [B, 10]"


def test_a_file_that_answers_otherwise_is_not_kept(run, tmp_path, monkeypatch):
    (tmp_path / "student.pt").write_text("mine")
    network = run.model()
    monkeypatch.setitem(graphs.READERS, "torchscript", lambda path: lambda x: network(x) + 1e-3)
    with pytest.raises(KDScopeError, match=r"logits 1\.0e-03 away from the network's on 1 images, so it was not kept"):
        kdscope.export(run, out=tmp_path / "student.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["student.pt"]
    assert (tmp_path / "student.pt").read_text() == "mine"


def test_without_onnxruntime_onnx_is_written_unchecked(run, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = call(run.path, "--out", tmp_path / "student.onnx")
    assert "not checked: pip install onnxruntime" in result.output
    assert (tmp_path / "student.onnx").stat().st_size > 2e5


class Pairs(nn.Module):
    """A network of exactly two images."""

    def forward(self, x):
        return x.reshape(2, 192) @ torch.ones(192, 10)


@pytest.mark.parametrize("format", ["exported", "onnx"])
def test_a_network_of_one_batch_size_is_refused_in_one_line(format):
    pytest.importorskip("onnxscript") if format == "onnx" else None
    with pytest.raises(KDScopeError, match=rf"cannot be written as {format} \(.+\); try --batch 1") as caught:
        graphs.WRITERS[format](Pairs(), (3, 8, 8), "dynamic", None, {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "onx"}, "unknown format 'onx'; nearest: onnx"),
        ({"out": "student.h5"}, r"does not say its format; give --format or end it in \.safetensors, \.onnx"),
        ({"out": "folder"}, "does not say its format"),
        ({"format": "exported", "out": "."}, r"is a directory; give --out a file, such as student\.pt2"),
        ({"format": "exported", "opset": 18}, "--opset belongs to onnx, and the format is exported"),
        ({"format": "exported", "batch": "many"}, "--batch is 'dynamic' or a number of images, not 'many'"),
        ({"normalise": True}, "safetensors holds weights alone"),
        ({"batch": 4}, "safetensors holds weights alone"),
    ],
)
def test_refused_and_nothing_written(run, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KDScopeError, match=message):
        kdscope.export(run, **options)
    assert list(tmp_path.iterdir()) == []


def test_an_opset_that_is_not_to_be_had(run, tmp_path, capfd):
    pytest.importorskip("onnxscript")
    with pytest.raises(KDScopeError, match=r"needs ONNX opset \d+, and --opset 3 was asked for"):
        kdscope.export(run, out=tmp_path / "student.onnx", opset=3)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_missing_package_is_named(run, package, tmp_path, monkeypatch):
    for each in ("onnx", "onnxscript"):
        if each == package:
            monkeypatch.setitem(sys.modules, each, None)
        else:
            pytest.importorskip(each)
    with pytest.raises(KDScopeError, match=rf"ONNX needs the package {package}: pip install 'kdscope\[onnx\]'"):
        kdscope.export(run, out=tmp_path / "student.onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_run_is_refused(run, tmp_path):
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_bytes((run.path / "config.yaml").read_bytes())
    with pytest.raises(KDScopeError, match="is not finished; continue it with `kdscope train --resume"):
        kdscope.export(tmp_path / "begun")
    assert [path.name for path in (tmp_path / "begun").iterdir()] == ["config.yaml"]
