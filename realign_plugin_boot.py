"""Post-import hooks: how the stock tools come to know realign-plugin.

``realign_plugin.pth`` (and, from Python 3.15 on, ``realign_plugin.start``) runs ``install`` in every interpreter, so
this file is the top level's own, imports the standard library only, and does next to nothing until a host is imported.
``REALIGN_PLUGIN=0`` turns it all off.
"""

import os
import sys

HOOKS = {
    "peft": ("after", "realign_plugin.tuner.hook", "attach"),
    "llamafactory.launcher": ("after", "realign_plugin.training.hook", "attach_launcher"),
    "llamafactory.v1.launcher": ("after", "realign_plugin.training.hook", "attach_v1_launcher"),
    "llamafactory.hparams.parser": ("after", "realign_plugin.training.hook", "attach_parser"),
    "llamafactory.model.adapter": ("after", "realign_plugin.training.hook", "attach_adapter"),
    "llamafactory.train.tuner": ("after", "realign_plugin.training.hook", "attach_tuner"),
    "llamafactory.extras.constants": ("after", "realign_plugin.training.board", "attach_constants"),
    "llamafactory.webui.runner": ("after", "realign_plugin.training.board", "attach_runner"),
    "mergekit.merge_methods.registry": ("after", "realign_plugin.merging.hook", "attach_registry"),
    "mergekit.merge": ("after", "realign_plugin.merging.hook", "attach_merge"),
    "lm_eval.tasks.manager": ("after", "realign_plugin.evaluation.hook", "attach_manager"),
    "lm_eval.evaluator": ("after", "realign_plugin.evaluation.hook", "attach_evaluator"),
    "lm_eval._cli.harness": ("after", "realign_plugin.evaluation.hook", "attach_harness"),
    "llamafactory.data.mm_plugin": ("around", "realign_plugin.training.torchaudio_standin", "stand_in"),
}
"""Module of a host: when our function runs, and where it is; ``around`` is a context manager for the import."""

attached: "dict[str, Exception | None]" = {}
"""Module of a host: None where our function ran, else the error that it raised."""


def _warn(module, error):
    host = module.partition(".")[0]
    try:
        from importlib.metadata import version

        host += " " + version(host)
    except Exception:
        host += " (version unknown)"
    if not any(attached.values()):  # one warning a process, however many hooks fail
        print(
            f"realign-plugin: cannot attach to {host} ({module}: {type(error).__name__}: {error}); it works as if the "
            "plugin were not installed. See `realign doctor`; REALIGN_PLUGIN=0 silences this.",
            file=sys.stderr,
        )
    attached[module] = error


def _load(name):
    from importlib import import_module

    _, home, function = HOOKS[name]
    return getattr(import_module(home), function)


def _wrap(loader, name):
    run = loader.exec_module

    def exec_module(module):
        if HOOKS[name][0] == "around":
            try:
                context = _load(name)()
            except Exception as error:
                _warn(name, error)
                return run(module)
            with context:
                run(module)
            attached[name] = None
            return None
        run(module)
        try:
            _load(name)(module)
        except Exception as error:
            _warn(name, error)
        else:
            attached[name] = None
        return None

    loader.exec_module = exec_module


class _Finder:
    """Lets the other finders find a host's module and wraps its loader."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in HOOKS:
            return None
        for finder in sys.meta_path:
            if finder is _Finder or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    _wrap(spec.loader, name)
                return spec
        return None


def install():
    """Put the hooks in place, once; nothing is imported yet."""
    if os.environ.get("REALIGN_PLUGIN") != "0" and _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)


install()
