"""What the images are made of: checked without building them, which `make images` does."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution, distributions
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "infra" / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()


def load(path: Path) -> ModuleType:
    """Return a script as a module, without running its main part."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pin() -> ModuleType:
    return load(DOCKER / "pin.py")


def test_dockerfiles_are_clean() -> None:
    tool = Path(sys.executable).with_name("hadolint")
    files = [DOCKER / "Dockerfile", ROOT / "infra/stand-ins/Dockerfile"]
    found = subprocess.run([tool, "-c", ROOT / "infra/hadolint.yaml", *files], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_images_hold_what_the_lock_says_and_no_more(pin: ModuleType) -> None:
    assert pin.out_of_date() == []
    lock = pin.read_pins("lock.txt") | pin.read_pins("build.txt") | {"pyradiomics": "3.0.1"}
    for image in pin.IMAGES:
        common, own = pin.read_pins("common.txt"), pin.read_pins(f"{image}.txt")
        assert not set(common) & set(own)
        assert (common | own).items() <= lock.items()
        assert set(common | own) == pin.packages_of(image) - {"torch"}
    assert "feast" not in pin.read_pins("segmentation.txt")
    assert not {"prefect", "dvc", "nilearn", "monai"} & set(pin.read_pins("survival_analytics.txt", "common.txt"))
    assert not {"mypy", "scipy"} & set(pin.read_pins("feature_store.txt", "common.txt"))
    assert "scikit-learn" not in pin.read_pins("preprocessing.txt", "common.txt")


def test_every_line_is_hashed(pin: ModuleType) -> None:
    for path in [
        *(ROOT / "requirements" / f"{image}.txt" for image in pin.IMAGES),
        *map(pin.FOLDER.joinpath, pin.TORCH),
    ]:
        pins = re.findall(r"^[^#\s].*==", path.read_text(), re.MULTILINE)
        hashes = pin.read_hashes(path)
        assert len(hashes) == len(pins) > 0
        assert all(hashes.values())


def test_torch_for_gpus_is_the_same_torch_and_brings_one_cuda(pin: ModuleType) -> None:
    cpu, cuda = (pin.read_pins(name) for name in pin.TORCH)
    assert cpu == {"torch": cuda["torch"]} == {"torch": pin.exact_pins()["torch"]}
    files = [pin.read_hashes(pin.FOLDER / name)["torch", cpu["torch"]] for name in pin.TORCH]
    assert set(files[0]).isdisjoint(files[1]), "the build for processors is not the one for GPUs"
    beside = set(cuda) - {"torch"}
    assert {"nvidia-cublas", "nvidia-cuda-runtime", "nvidia-cudnn-cu13"} <= beside
    assert all(name.startswith(("nvidia-", "cuda-")) for name in beside), "torch and its CUDA, nothing else"
    major = cuda["nvidia-cuda-runtime"].split(".")[0]
    assert {name.rpartition("-cu")[2] for name in beside if re.search(r"-cu\d+$", name)} == {major}
    needed = [Requirement(text) for text in distribution("torch").requires or ()]
    for image in ("segmentation", "model_serving", "pipelines"):
        held = pin.read_pins("common.txt", f"{image}.txt")
        assert set(held).isdisjoint(cuda), "each package comes from one file"
        wanted = {
            canonicalize_name(need.name) for need in needed if not need.marker or need.marker.evaluate({"extra": ""})
        }
        assert wanted <= set(held) | set(cuda) | pin.UNREAD


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda text: re.sub(r"^scipy==\S+", "scipy==0.0.1", text, flags=re.MULTILINE), "scipy==0.0.1"),
        (lambda text: text.replace("--hash=sha256:", "--hash=md5:", 1), "lacks"),
        (lambda text: text + "left-pad==1.0 \\\n    --hash=sha256:" + "0" * 64 + "\n", "left-pad==1.0"),
    ],
)
def test_drift_is_named(pin: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change, complaint) -> None:
    shutil.copytree(pin.FOLDER, tmp_path / "requirements")
    path = tmp_path / "requirements" / "preprocessing.txt"
    path.write_text(change(path.read_text()))
    monkeypatch.setattr(pin, "FOLDER", tmp_path / "requirements")
    assert any(complaint in line and "preprocessing.txt" in line for line in pin.out_of_date())


def test_a_package_that_is_not_locked_is_named(pin: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    pins = {name: version for name, version in pin.read_pins("lock.txt").items() if name != "bentoml"}
    monkeypatch.setattr(pin, "read_pins", lambda *names: pins)
    monkeypatch.setattr(pin, "exact_pins", dict)
    with pytest.raises(SystemExit, match="no version of bentoml"):
        pin.wanted_files()


def test_only_what_is_copied_is_sent_to_the_engine() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    sent = {line[1:] for line in lines if line.startswith("!")}
    sources = {
        source
        for command in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in command.split()[:-1]
    } | set(re.findall(r"--mount=type=bind,source=([^,]+)", DOCKERFILE))
    for source in sources:
        assert any(source == entry or source.startswith(f"{entry}/") for entry in sent), source
    for entry in sent:
        assert any(source == entry or source.startswith(f"{entry}/") for source in sources), entry
        assert (ROOT / entry).exists()


def test_images_carry_labels_health_and_a_numeric_user() -> None:
    labels = set(re.findall(r"org\.opencontainers\.image\.(\w+)=", DOCKERFILE))
    assert labels == {"title", "description", "licenses", "vendor", "version", "revision"}
    for target in ("service", "pipelines"):
        stage = DOCKERFILE.split(f"FROM runtime AS {target}")[1].split("\nFROM ")[0]
        assert re.findall(r"^USER (.+)$", stage, re.MULTILINE) == ["10001:10001"]
        assert "HEALTHCHECK" in stage
        assert "CMD [" in stage
    runtime = DOCKERFILE.split("AS runtime")[1]
    assert "gcc" not in runtime
    assert "pip" not in runtime.replace("pipelines", "")


def test_folders_and_port_are_those_of_the_chart() -> None:
    chart = (ROOT / "charts/service/templates/_gliaflow.tpl").read_text()
    folders = re.findall(
        r"\{name: (\w+), value: (/\S+)\}", chart.split('define "gliaflow.folders"')[1].split("end -}}")[0]
    )
    assert len(folders) == 5
    for name, folder in folders:
        assert re.search(rf"\b{name}={folder}\b", DOCKERFILE)
    deployment = (ROOT / "charts/service/templates/deployment.yaml").read_text()
    port = re.search(r'--port, "(\d+)"', deployment).group(1)
    assert f"EXPOSE {port}\n" in DOCKERFILE
    assert f"--port {port}" in DOCKERFILE
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE).group(1)
    assert f"ARG VERSION={version}\n" in DOCKERFILE


def test_bill_of_materials_lists_what_is_installed() -> None:
    command = [sys.executable, DOCKER / "bill.py", "gliaflow/segmentation", "0.1.0"]
    first, second = (subprocess.run(command, capture_output=True, check=True).stdout for _ in range(2))
    assert first == second
    bill = json.loads(first)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["name"] == "gliaflow/segmentation"
    urls = [entry["purl"] for entry in bill["components"]]
    assert len(urls) == len(set(urls)) == len({entry["bom-ref"] for entry in bill["components"]})
    names = {re.sub(r"[-_.]+", "-", package.metadata["Name"]).lower() for package in distributions()}
    listed = {entry["name"] for entry in bill["components"] if entry["purl"].startswith("pkg:pypi/")}
    assert listed == names
    if Path("/var/lib/dpkg/status").exists():
        assert any(url.startswith("pkg:deb/debian/libc6@") for url in urls)


def test_pruning_takes_tests_and_headers_and_leaves_the_rest(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    goes = ["scipy/stats/tests/a.py", "torch/include/b.h", "pandas/c.pyi", "pyarrow/libarrow_flight.so.1"]
    goes += ["botocore/data/ec2/service.json", "lib.a", "feast/ui/build/index.html", "nilearn/image/image.py"]
    goes += ["nilearn/datasets/data/fsaverage5/white_left.gii.gz"]
    stays = [
        "scipy/stats/a.py",
        "numpy/_core/tests/_natype.py",
        "pyarrow/libarrow.so.1",
        "pyarrow/libarrow_substrait.so.1",
        "botocore/data/s3/service.json",
    ]
    stays += ["botocore/data/endpoints.json", "botocore/data/sts/service.json", "numpy.libs/libx.so"]
    stays += ["feast/feature_store.py", "nilearn/__init__.py", "nilearn/datasets/data/mni_icbm152.nii.gz"]
    for name in goes + stays:
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    subprocess.run(["bash", DOCKER / "prune.sh", tmp_path], check=True)
    left = {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()}
    assert left == set(stays)


def test_without_an_engine_the_build_says_so(tmp_path: Path) -> None:
    (tmp_path / "infra").mkdir()
    shutil.copy(ROOT / "infra/engine.sh", tmp_path / "infra")
    (tmp_path / "bin").mkdir()
    for name in ("bash", "dirname"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    environment = {"PATH": str(tmp_path / "bin")}
    found = subprocess.run(
        [tmp_path / "bin/bash", tmp_path / "infra/engine.sh", "version"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 1
    assert "install podman or docker" in found.stderr
    marked = subprocess.run(
        [tmp_path / "bin/bash", tmp_path / "infra/engine.sh", "one", "two"],
        env={**environment, "ENGINE": shutil.which("echo")},
        capture_output=True,
        text=True,
    )
    assert marked.stdout == "one two\n"
