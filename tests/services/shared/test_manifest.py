import pytest

from services.shared.errors import InvalidMask
from services.shared.manifest import read_manifest, run_step
from services.shared.storage import Storage


class Step:
    """A step that copies a file and counts how often it ran."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.runs = 0
        storage.write_text("in.txt", "input")

    def run(self, *, version: str = "1", **parameters: object) -> bool:
        manifest, cached = run_step(
            self.storage,
            "out/manifest.json",
            step="copy",
            step_version=version,
            case="a/sub-1",
            inputs=["in.txt"],
            parameters=parameters,
            packages=["numpy"],
            compute=self.compute,
        )
        assert manifest.outputs == {"out/copy.txt": self.storage.sha256("out/copy.txt")}
        return cached

    def compute(self) -> list[str]:
        self.runs += 1
        self.storage.write_text("out/copy.txt", self.storage.read_text("in.txt"))
        return ["out/copy.txt"]


@pytest.fixture
def step(storage: Storage) -> Step:
    return Step(storage)


def test_second_run_does_nothing(step: Step) -> None:
    assert [step.run(a=1), step.run(a=1)] == [False, True]
    assert step.runs == 1


@pytest.mark.parametrize(
    "change", ["input", "parameter", "version", "output changed", "output gone", "manifest broken"]
)
def test_change_runs_the_step_again(step: Step, change: str) -> None:
    step.run(a=1)
    match change:
        case "input":
            step.storage.write_text("in.txt", "other")
        case "output changed":
            step.storage.write_text("out/copy.txt", "tampered")
        case "output gone":
            step.storage.remove("out/copy.txt")
        case "manifest broken":
            step.storage.write_text("out/manifest.json", "{}")
    cached = step.run(version="2" if change == "version" else "1", a=2 if change == "parameter" else 1)
    assert not cached
    assert step.runs == 2


def test_failed_step_leaves_no_manifest_and_knows_its_case(step: Step) -> None:
    step.run(a=1)

    def fail() -> list[str]:
        raise InvalidMask("empty")

    with pytest.raises(InvalidMask) as caught:
        run_step(
            step.storage,
            "out/manifest.json",
            step="copy",
            step_version="1",
            case="a/sub-1",
            inputs=["in.txt"],
            parameters={"a": 3},
            packages=[],
            compute=fail,
        )
    assert (caught.value.case, caught.value.step) == ("a/sub-1", "copy")
    assert read_manifest(step.storage, "out/manifest.json") is None
