"""torchaudio that cannot be imported is stood in for, and only while the host asks for it."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from realign_plugin.training.torchaudio_standin import StandIn, stand_in


@pytest.mark.parametrize(
    "error", [ImportError("none"), OSError("libcudart.so.13: not found"), RuntimeError("CUDA 13.2")]
)
def test_a_broken_torchaudio_is_stood_in_for(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken(name: str) -> None:
        raise error

    monkeypatch.delitem(sys.modules, "torchaudio", raising=False)
    monkeypatch.setattr("realign_plugin.training.torchaudio_standin.importlib.import_module", broken)
    with stand_in():
        import torchaudio

        assert isinstance(torchaudio, StandIn)
    assert "torchaudio" not in sys.modules
    with pytest.raises(ImportError, match=f"torchaudio.load is needed for audio inputs.*{type(error).__name__}"):
        torchaudio.load("x.wav")


def test_a_working_torchaudio_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    real = type(sys)("torchaudio")
    monkeypatch.setitem(sys.modules, "torchaudio", real)
    with stand_in():
        assert sys.modules["torchaudio"] is real
    assert sys.modules["torchaudio"] is real


def test_the_host_imports_without_torchaudio() -> None:
    if importlib.util.find_spec("torchaudio") is None:
        from llamafactory.data import mm_plugin

        assert isinstance(mm_plugin.torchaudio, StandIn)
