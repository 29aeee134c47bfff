"""What `dspex compile` and `dspex eval` refuse before a model is asked."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dspex.modules.optimizers import dspy_metrics, exact_match
from dspex.modules.optimizers.dspy_metrics import dspy_metric
from dspex.runtime.journal import VersionNotFoundError
from dspex.worker.compile_job import CompileOptions
from dspex.worker.eval_command import WorkOptions
from dspex.worker.optimize_subject import BadOptionError, load_program
from dspex.worker.programs_command import BadVersionError, import_program

WORK = WorkOptions(
    program="p.yaml",
    metric="exact_match:zone",
    inputs=(),
    lm="openai:m",
    base_url=None,
    concurrency=4,
    timeout=120.0,
    pool_max=4,
    max_errors=10,
    budget_usd=None,
    price=None,
    store=None,
    as_json=False,
)
OPTIONS = CompileOptions(
    work=WORK,
    optimizer="dspy.MIPROv2",
    trainset=Path("t.jsonl"),
    valset=None,
    devset=None,
    teacher_lm=None,
    max_bootstrapped_demos=4,
    max_labeled_demos=16,
    max_rounds=1,
    threshold=None,
    candidates=8,
    settings={"auto": "light"},
    compile_settings={},
    compile_timeout=None,
    save=None,
)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"optimizer": "mipro"}, "'mipro' is unknown: use bootstrap, .* or dspy.NAME"),
        ({"optimizer": "labeled"}, "--settings and --compile-settings are for"),
        (
            {"optimizer": "labeled", "settings": {}, "compile_timeout": 9.0},
            "--compile-timeout is for optimizers of dspy: labeled takes --timeout",
        ),
        ({"work": replace(WORK, metric="judge:kind")}, "asks a model here"),
        ({"teacher_lm": "embedded"}, "give --lm embedded instead"),
        ({"teacher_lm": "openai:big"}, "--teacher-lm is not for dspy.MIPROv2"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    change: dict[str, Any], problem: str
) -> None:
    OPTIONS.check()
    with pytest.raises(BadOptionError, match=problem):
        replace(OPTIONS, **change).check()


async def test_a_program_is_a_file_a_version_or_code(tmp_path: Path) -> None:
    file, store = tmp_path / "zones.yaml", str(tmp_path / "runs.db")
    file.write_text(
        "name: zones\nsteps:\n  a: {module: Predict, signature: town -> zone}\n"
    )
    await import_program(store, file, made_by="test")
    program = await load_program(str(file), store=None)
    assert program is not None
    assert await load_program("zones@1", store=store) == program
    assert await load_program("zones", store=store) == program
    assert await load_program("my_code:make", store=store) is None
    with pytest.raises(BadOptionError, match="'zones@1' is a version in a store: give"):
        await load_program("zones@1", store=None)
    with pytest.raises(VersionNotFoundError):
        await load_program("zones@2", store=store)
    with pytest.raises(BadVersionError):
        await load_program("zones@new", store=store)


def test_a_metric_by_field_has_a_name_that_dspys_process_imports() -> None:
    text = dspy_metric("exact_match:zone")
    assert text == f"{dspy_metrics.__name__}:exact_match.zone"
    found: Any = dspy_metrics
    for name in str(text).partition(":")[2].split("."):
        found = getattr(found, name)
    same: Any = exact_match("zone")
    for zone in ("4", "5"):
        example, prediction = {"zone": "4"}, {"zone": zone}
        # GEPA gives a metric five arguments.
        assert found(example, prediction, None, None, None) is same(example, prediction)
    assert dspy_metric("my_metrics:right") is None
    assert not hasattr(dspy_metrics, "right")
