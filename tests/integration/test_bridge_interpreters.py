"""Other interpreters and virtual environments for the hosted dspy."""

import sys
import venv
from pathlib import Path

import msgspec
import pytest

from dspex.runtime import Node, StartError
from dspex.runtime.bridge import (
    BridgeUnavailableError,
    DspyBridge,
    DspyCall,
    DspyPool,
)
from dspex.runtime.bridge.testing import no_model


async def test_without_dspy_the_start_says_what_to_install(
    node: Node, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    # An interpreter that has msgspec and no dspy.
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/msgspec").symlink_to(Path(msgspec.__file__).parent)
    python.write_text(
        f'#!/bin/sh\nPYTHONPATH={tmp_path}/lib exec {sys.executable} -S "$@"\n'
    )
    python.chmod(0o755)
    with pytest.raises(StartError) as caught:
        await node.start(DspyBridge(python=str(python)))
    reason = caught.value.reason
    assert isinstance(reason, BridgeUnavailableError)
    assert "dspy is not installed; run `pip install 'dspex[dspy]'`" in str(reason)


async def test_a_missing_interpreter_is_named(node: Node) -> None:
    with pytest.raises(StartError) as caught:
        await node.start(DspyBridge(python="/no/such/python"))
    assert isinstance(caught.value.reason, BridgeUnavailableError)
    assert "/no/such/python cannot host dspy" in str(caught.value.reason)


async def test_another_virtual_environment_hosts_as_well(
    node: Node, tmp_path: Path
) -> None:
    venv.create(tmp_path / "env", symlinks=True)
    python = tmp_path / "env/bin/python"
    (site,) = (tmp_path / "env/lib").glob("*/site-packages")
    here = next(path for path in sys.path if path.endswith("site-packages"))
    (site / "here.pth").write_text(here + "\n")
    (site / "only_there.py").write_text("import sys\ndef prefix(): return sys.prefix\n")
    bridge = await node.start(DspyBridge(python=str(python)))
    call = DspyCall(module="only_there:prefix", signature="-> prefix", inputs={})
    result = await bridge.call(DspyBridge.run, call, no_model, timeout=30)
    assert result.outputs == {"prefix": str(tmp_path / "env")}


async def test_a_second_interpreter_without_dspy_says_what_to_install(
    node: Node, tmp_path: Path
) -> None:
    venv.create(tmp_path / "env", symlinks=True)
    python = tmp_path / "env/bin/python"
    for actor in (DspyBridge(python=str(python)), DspyPool(python=str(python))):
        problem = await problem_of(node, actor)
        assert f"{python} cannot host dspy: dspy is not installed" in problem
        assert f"`{python} -m pip install 'dspy>=3.4,<3.5' msgspec`" in problem


async def test_a_second_interpreter_whose_dspy_is_another_version_names_both(
    node: Node, tmp_path: Path
) -> None:
    venv.create(tmp_path / "env", symlinks=True)
    python = tmp_path / "env/bin/python"
    (site,) = (tmp_path / "env/lib").glob("*/site-packages")
    here = next(path for path in sys.path if path.endswith("site-packages"))
    (site / "here.pth").write_text(here + "\n")
    # What pip leaves of another version; it comes before the other on the path, and
    # must not be imported: what it needs may not be there.
    (site / "dspy").mkdir()
    (site / "dspy/__init__.py").write_text("import only_dspy_2_needs_this\n")
    info = site / "dspy-2.6.27.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: dspy\nVersion: 2.6.27\n"
    )
    problem = await problem_of(node, DspyPool(python=str(python)))
    assert "its dspy is 2.6.27, the bridge needs >=3.4,<3.5" in problem


async def problem_of(node: Node, actor: DspyBridge | DspyPool) -> str:
    with pytest.raises(StartError) as caught:
        await node.start(actor)
    reason: object = caught.value
    while isinstance(reason, StartError):
        reason = reason.reason
    assert isinstance(reason, BridgeUnavailableError)
    return str(reason)
