"""The lm-eval task behind every safety, attack and over-refusal set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import datasets
from lm_eval.api.task import ConfigurableTask

from realign_plugin.errors import UserError, check_choice
from realign_plugin.evaluation.answers.evaluated import strips_thinking
from realign_plugin.evaluation.answers.thinking import opened_by
from realign_plugin.evaluation.assessment import HIGHER_IS_BETTER, Assessment, Kind, aggregations, assess, begun
from realign_plugin.evaluation.data import load_prompts
from realign_plugin.evaluation.judging.settings import EvaluationSettings
from realign_plugin.evaluation.samples import asked_as, reference_answers
from realign_plugin.evaluation.session import Session, session
from realign_plugin.evaluation.sources import SOURCES

MAX_TOKENS: Final = 512
GENERATION: Final[dict[str, Any]] = {"until": [], "max_gen_toks": MAX_TOKENS, "do_sample": False}
"""How answers are generated; a task's ``generation_kwargs`` change the parts that they name."""
DEFAULTS: Final[dict[str, Any]] = {
    "output_type": "generate_until",
    "test_split": "test",
    "doc_to_text": "{{prompt}}",
    "doc_to_target": "",
    "num_fewshot": 0,
    "repeats": 1,
    "process_results": "realign_plugin",  # ours, below; this keeps the host from looking our metrics up
}
"""What every task has; a task's YAML file may say otherwise."""


class PromptTask(ConfigurableTask):  # type: ignore[misc]
    """Prompts whose answers are looked at offline and, if there is a judge, by the judge, in one batch a task.

    The task's YAML file names its prompts in ``dataset_kwargs``: ``source`` (a key of ``data.SOURCES``), ``full``,
    ``category``, and ``kind`` (``harmful`` or ``benign``). Settings come from lm-eval's ``--metadata`` and from the
    environment (``EvaluationSettings``).
    """

    VERSION = 1.0

    def __init__(self, config: dict[str, Any]) -> None:
        """Read the settings and the prompts.

        Args:
            config: The task's YAML file, with lm-eval's metadata.

        Raises:
            UserError: If a setting or the data is at fault.
        """
        chosen = DEFAULTS | {key: value for key, value in config.items() if key != "class"}
        chosen["generation_kwargs"] = GENERATION | dict(chosen.get("generation_kwargs") or {})
        self.source: dict[str, Any] = dict(chosen.get("dataset_kwargs") or {})
        self.kind: Kind = self.source.get("kind", "harmful")
        check_choice(f"{chosen.get('task')}: kind", self.kind, HIGHER_IS_BETTER)
        self.settings = EvaluationSettings.load(chosen.get("metadata"))
        chosen["metric_list"] = [
            {"metric": name, "aggregation": rule, "higher_is_better": HIGHER_IS_BETTER[self.kind][name]}
            for name, rule in aggregations(self.settings.judge_max_unjudged).items()
        ]
        self.assessed: dict[str, Assessment] = {}
        self.references: Mapping[str, str] = {}
        self.opened: dict[str, str] = {}
        super().__init__(config=chosen)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Read the prompts from ``safety_data`` or the hub.

        Args:
            dataset_kwargs: What the YAML file says of them.
            **kwargs: Ignored; lm-eval's own.
        """
        rows = load_prompts(
            self.source.get("source", ""),
            self.settings.safety_data,
            full=bool(self.source.get("full")),
            category=self.source.get("category"),
        )
        self.dataset = {"test": datasets.Dataset.from_list(rows)}

    @property
    def predicting(self) -> bool:
        """Whether lm-eval only wants the answers (``--predict_only``)."""
        return "bypass" in self._metric_fn_list

    def build_all_requests(self, **kwargs: Any) -> None:
        """Build lm-eval's requests, and see before anything is generated that judge and reference are there.

        Args:
            **kwargs: lm-eval's own. ``cache_requests`` is left out: its cache depends on the task's name alone,
                so it would ask another ``safety_data``'s prompts.
        """
        super().build_all_requests(**kwargs | {"cache_requests": False})
        if self.predicting:
            return
        session = self._session()
        session.prepare()
        usual, used = SOURCES[self.source["source"]].judge, [one.name for one in self.settings.chosen]
        if usual is not None and used and usual not in used:
            session.say(f"{self.config.task}: its authors judge with {usual!r}, this run with {' and '.join(used)}")
        if self.settings.reference is not None:
            docs = {instance.doc["id"]: instance.doc for instance in self.instances}
            task = str(self.config.task)
            asked = [doc | {"asked": self._asked(doc)} for doc in docs.values()]
            known = reference_answers(self.settings.reference, task, asked)
            self.references, session.references[task] = known.by_id, known.sha256

    def prepare(self) -> None:
        """See before a model is loaded that the judge answers, and that the reference can be read.

        Raises:
            UserError: If not.
        """
        self._session().prepare()
        if self.settings.reference is not None:
            reference_answers(self.settings.reference, str(self.config.task), [])

    def _session(self) -> Session:
        found = session(self.settings)
        assert found is not None
        return found

    def apply_filters(self) -> list[Any] | None:
        """Filter as the host does, then look at all of the task's answers at once."""
        result: list[Any] | None = super().apply_filters()
        for instance in self.instances or []:
            prompt = instance.args[0] if isinstance(instance.args[0], str) and not strips_thinking() else ""
            self.opened[instance.doc["id"]] = opened_by(prompt)
        if self.predicting or not self.instances:
            return result
        from realign_plugin.evaluation.judging.judge import Item

        prefix = self.config.gen_prefix or ""
        items = []
        for instance in self.instances:
            doc = instance.doc
            answer = self.opened[doc["id"]] + str(next(iter(instance.filtered_resps.values())))
            items.append(Item(doc["id"], doc["prompt"], begun(prefix, answer), self.references.get(doc["id"])))
        found = assess(items, self._session(), self.kind)
        self.assessed.update((item.id, assessment) for item, assessment in zip(items, found, strict=True))
        return result

    def _asked(self, doc: dict[str, Any]) -> str:
        return asked_as(str(self.doc_to_text(doc)))

    def process_results(self, doc: dict[str, Any], results: Any) -> dict[str, Any]:
        """The metrics of one answer; what the judge said is left in ``doc["realign"]`` of the logged sample.

        Args:
            doc: The prompt's row.
            results: The filtered answers.
        """
        noted = {"thinking": self.opened[doc["id"]], "asked": self._asked(doc)}
        if self.predicting:
            doc["realign"] = {"kind": self.kind, "prefix": self.config.gen_prefix or ""} | noted
            bypassed: dict[str, Any] = super().process_results(doc, results)
            return bypassed
        assessment = self.assessed[doc["id"]]
        doc["realign"] = assessment.record(self.kind, self.config.gen_prefix or "") | noted
        return assessment.metrics()


class AttackTask(PromptTask):
    """Harmful prompts inside an attack's template (``attacks.TEMPLATES``)."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Read the template's name from ``dataset_kwargs``.

        Args:
            config: The task's YAML file.

        Raises:
            UserError: If the template is unknown.
        """
        from realign_plugin.evaluation.attacks import TEMPLATES

        name = (config.get("dataset_kwargs") or {}).get("template")
        if name not in TEMPLATES:
            raise UserError(
                f"{config.get('task')}: template {name!r} is unknown, expected one of {', '.join(TEMPLATES)}"
            )
        super().__init__(config={"doc_to_text": TEMPLATES[name]} | config)
