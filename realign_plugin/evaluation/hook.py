"""The hooks into lm-eval: where our tasks are, what is added to results, and how a run ends."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from realign_plugin.errors import UserError
from realign_plugin.evaluation.task_names import tasks_folder
from realign_plugin.text_files import json_option

FAILED = 3
"""Exit code of a run whose answers were generated and saved, but could not all be judged."""


def attach_manager(manager: ModuleType) -> None:
    """Let ``TaskManager`` look into our folder: after its own, before the user's.

    An lm-eval that finds tasks by the entry point ``lm_eval.tasks`` is left alone.
    """
    if "entry_points" in vars(manager):
        return
    cls = manager.TaskManager
    original = cls.__init__

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        include = kwargs.get("include_path", args[1] if len(args) > 1 else None)
        given = list(include) if isinstance(include, (list, tuple)) else [include] if include else []
        ours = tasks_folder()
        if kwargs.get("include_defaults", True) and not any(Path(path).resolve() == ours.resolve() for path in given):
            given = [ours, *given]
        if len(args) > 1:
            args = (args[0], given, *args[2:])
        else:
            kwargs["include_path"] = given or None
        original(self, *args, **kwargs)
        self.include_path = include

    cls.__init__ = init


def attach_evaluator(evaluator: ModuleType) -> None:
    """Check our settings before a model is loaded, and complete our metrics in what is returned.

    The model is noted meanwhile: a judge in this process takes its place on the GPU.
    """
    original = evaluator.simple_evaluate

    @functools.wraps(original)
    def simple_evaluate(*args: Any, **kwargs: Any) -> Any:
        from realign_plugin.evaluation import preflight, results
        from realign_plugin.evaluation.session import reset

        reset()
        preflight.check(kwargs)
        found = original(*args, **kwargs)
        return None if found is None else results.complete(found)

    evaluator.simple_evaluate = simple_evaluate  # type: ignore[attr-defined]
    evaluate = evaluator.evaluate

    @functools.wraps(evaluate)
    def evaluate_noted(lm: Any, task_dict: Any, *args: Any, **kwargs: Any) -> Any:
        from lm_eval.api.model import CachingLM

        from realign_plugin.evaluation.answers import evaluated
        from realign_plugin.evaluation.preflight import check_one_judge
        from realign_plugin.evaluation.session import session
        from realign_plugin.evaluation.task import PromptTask

        check_one_judge(evaluated.leaves(task_dict))
        model = lm.lm if isinstance(lm, CachingLM) else lm  # an attribute set on the wrapper stays there
        evaluated.keep_thinking(model, task_dict, PromptTask)
        evaluated.note(model)
        try:
            found = evaluate(lm, task_dict, *args, **kwargs)
            current = session()
            if current is not None:
                current.gather(lm)
            return found
        finally:
            evaluated.note(None)

    evaluator.evaluate = evaluate_noted  # type: ignore[attr-defined]


def attach_harness(harness: ModuleType) -> None:
    """End a user's mistake with one line and exit code 2, and a run that could not be judged with exit code 3."""
    cls = harness.HarnessCLI
    original = cls.execute

    @functools.wraps(original)
    def execute(self: Any, args: Any) -> Any:
        from realign_plugin.evaluation.session import session

        try:
            found = original(self, args)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(UserError.exit_code)
        current = session()
        if current is not None and current.failure:
            print(f"error: {current.failure}", file=sys.stderr)
            if os.environ.get("RANK", "0") == "0":  # another rank that failed would end the one that saves the results
                sys.exit(FAILED)
        return found

    cls.execute = execute
    parse = cls.parse_args

    @functools.wraps(parse)
    def parse_args(self: Any) -> Any:
        try:
            check_metadata(sys.argv)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(UserError.exit_code)
        return parse(self)

    cls.parse_args = parse_args


def check_metadata(argv: list[str]) -> None:
    """Refuse a ``--metadata`` that is meant to be JSON and is not.

    Raises:
        UserError: With where the JSON breaks off.
    """
    for index, word in enumerate(argv):
        name, _, value = word.partition("=")
        if name != "--metadata":
            continue
        text = value or (argv[index + 1] if index + 1 < len(argv) else "")
        if text.lstrip().startswith(("{", "[")):
            json_option(text, "--metadata")


def remember_index() -> None:
    """Let this process index each task folder once; the files in it are taken not to change."""
    from lm_eval.tasks._index import TaskIndex

    build = TaskIndex.build
    known: dict[str, dict[str, Any]] = {}

    @functools.wraps(build)
    def once(paths: Any, **options: Any) -> dict[str, Any]:
        index: dict[str, Any] = {}
        for path in paths:
            if str(path) not in known:
                known[str(path)] = build([path], **options)
            index |= known[str(path)]
        return index

    TaskIndex.build = staticmethod(once)
