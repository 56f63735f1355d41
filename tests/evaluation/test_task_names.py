from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from realign_plugin.errors import UserError
from realign_plugin.evaluation.task_names import check_tasks, names_in, tasks_folder


def test_our_tasks_are_known_without_lm_eval() -> None:
    code = (
        "import sys; from realign_plugin.evaluation.task_names import check_tasks; "
        "check_tasks(['safety', 'over_refusal_xstest', 'realign_downstream'], None, 'x'); "
        "assert 'lm_eval' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_our_names_are_those_that_lm_eval_finds() -> None:
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=False, include_path=str(tasks_folder()))
    assert names_in(tasks_folder()) == set(manager.all_tasks)


def test_others_are_looked_up(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("task: mine\noutput_type: generate_until\n")
    check_tasks(["mine", "gsm8k"], tmp_path, "evaluate.tasks")
    with pytest.raises(UserError, match=r"evaluate\.tasks: 'gsm8kk' is unknown, expected one of .*gsm8k"):
        check_tasks(["mine", "gsm8kk"], tmp_path, "evaluate.tasks")
