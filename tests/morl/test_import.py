"""What `import morl` promises: no heavy library, and no other package called rewards."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import morl
from morl.cli import env


def python(code, cwd=None, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=cwd,  # the working folder stands first on the path
        env={**os.environ, **environment},
    )


def test_names_are_imported_when_they_are_used():
    done = python("import sys, morl; morl.das_dennis; print('torch' in sys.modules, dir(morl))")
    assert done.stdout.startswith("True"), done.stderr
    assert "load_config" in done.stdout


def test_every_public_name_has_a_home():
    assert sorted(morl._HOME) == morl.__all__
    with pytest.raises(AttributeError, match="module 'morl' has no attribute 'laod'"):
        _ = morl.laod


def test_another_package_called_rewards_is_refused_by_name(tmp_path):
    (tmp_path / "rewards").mkdir()
    (tmp_path / "rewards" / "__init__.py").touch()
    path = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
    done = python("import morl", cwd=tmp_path.parent, PYTHONPATH=path)
    assert done.returncode == 1
    assert "`rewards` must be the package that comes with morl" in done.stderr
    assert str(tmp_path / "rewards") in done.stderr


def test_another_distribution_of_that_name_is_named_by_env(tmp_path, monkeypatch):
    owners = {"rewards": ["morl-diffusion", "other-rewards", "other-rewards"]}
    monkeypatch.setattr(env, "packages_distributions", lambda: owners)
    assert env.other_owners() == ["other-rewards"]
