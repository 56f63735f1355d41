"""The downstream tasks: lm-eval's own, with local files in place of the hub where a folder is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from realign_plugin.errors import UserError, reason
from realign_plugin.evaluation.data import find_file, read_rows
from realign_plugin.evaluation.judging.settings import EvaluationSettings


class DownstreamTask(ConfigurableTask):  # type: ignore[misc]
    """A task of lm-eval under a name of ours: its prompts, filters and metrics are lm-eval's.

    The YAML file names lm-eval's file (``builtin``) and, for each split, what a local file may be called (``files``).
    What else it says, or a group that holds the task, goes before lm-eval's.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        """Read lm-eval's own file.

        Args:
            config: The task's YAML file, with lm-eval's metadata.

        Raises:
            UserError: If a setting or a local file is at fault, or what lm-eval's checks need is missing.
        """
        given = dict(config["dataset_kwargs"])
        self.files: dict[str, list[str]] = given.pop("files")
        source = given.pop("builtin")
        self.settings = EvaluationSettings.load(config.get("metadata"))
        try:
            builtin = load_yaml(Path(lm_eval.tasks.__file__).parent / source, resolve_func=True)
        except ModuleNotFoundError as error:
            extra = str(source).partition("/")[0]
            raise UserError(
                f"{config['task']}: {error.name} is not installed, expected what lm-eval's own {extra} needs; "
                f"pip install 'lm-eval[{extra}]'"
            ) from error
        chosen = {key: value for key, value in builtin.items() if key not in ("tag", "group", "class")}
        chosen |= {key: value for key, value in config.items() if key != "class"} | {"dataset_kwargs": given}
        for key in ("dataset_kwargs", "generation_kwargs", "metadata"):
            chosen[key] = dict(builtin.get(key) or {}) | dict(chosen.get(key) or {}) or None
        super().__init__(config=chosen)
        self._check_scoring()

    def _check_scoring(self) -> None:
        """Score a made-up answer to each row, so that a row without a score is found before the model is asked."""
        score = self.config.process_results
        if self.OUTPUT_TYPE != "generate_until" or not callable(score):
            return
        for number, row in enumerate(self.eval_docs, 1):
            try:
                score(row, ["An answer."])
            except Exception as error:  # whatever lm-eval's check, and what it loads, may raise
                raise UserError(
                    f"{self.config.task}: row {number} cannot be scored ({reason(error)}), expected a row of "
                    "lm-eval's own task and what its check needs; fix or install it"
                ) from error

    def build_all_requests(self, **kwargs: Any) -> None:
        """Build lm-eval's requests, never from its cache, which depends on the task's name alone, not on its files.

        Args:
            **kwargs: lm-eval's own.
        """
        super().build_all_requests(**kwargs | {"cache_requests": False})

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Read local files where the folder has the split that is evaluated, else ask the hub.

        Args:
            dataset_kwargs: lm-eval's own.
            **kwargs: lm-eval's own.

        Raises:
            UserError: If a split that is needed is neither local nor on the hub.
        """
        split = str(self.config.test_split or self.config.validation_split)
        folder = self.settings.safety_data
        if folder is not None and not folder.is_dir():
            raise UserError(
                f"safety_data: {folder} is not a folder, expected one with {self.files[split][0]}.jsonl; check it"
            )
        if folder is not None and find_file(folder, self.files[split]) is not None:
            self.dataset = {}
            for name, files in self.files.items():
                file = find_file(folder, files)
                if file is not None:
                    self.dataset[name] = _table(file)
            needed = self.config.fewshot_split
            if needed and needed not in self.dataset and self.config.num_fewshot:
                raise UserError(
                    f"safety_data: {folder} lacks {self.files.get(needed, [needed])[0]}.jsonl, expected it for the "
                    f"{self.config.num_fewshot} examples of {self.config.task}; add it"
                )
            for unused in ("training_split", "validation_split", "fewshot_split"):
                if getattr(self.config, unused, None) not in self.dataset:
                    setattr(self.config, unused, None)
            if self.fewshot_cfg.split not in self.dataset:
                self.fewshot_cfg.split = None
            return
        try:
            super().download(dataset_kwargs, **kwargs)
        except Exception as error:  # offline, gated, renamed: the user's way out is one
            raise UserError(
                f"{self.config.task}: {self.config.dataset_path} cannot be fetched ({type(error).__name__}), expected "
                f"access to the hub; or give a folder with {self.files[split][0]}.jsonl as safety_data"
            ) from error


def _table(file: Path) -> datasets.Dataset:
    try:
        return datasets.Dataset.from_list(read_rows(file))
    except UserError:
        raise
    except (TypeError, ValueError, OverflowError) as error:  # pyarrow's: a column of text and numbers, say
        raise UserError(
            f"safety_data: {file} cannot be read as a table ({reason(error, 200)}), expected the same kind of value "
            "in all of a column; fix it"
        ) from error
