"""Examples in docstrings run."""

import doctest
import importlib
import pkgutil

import turnlog


def test_docstring_examples(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")  # the scripted server's example is a client of this machine
    tried = modules = 0
    for info in pkgutil.walk_packages(turnlog.__path__, "turnlog."):
        module = importlib.import_module(info.name)
        result = doctest.testmod(module)
        assert result.failed == 0, info.name
        tried += result.attempted
        modules += 1
    assert modules > 50, "the packages were not found"
    assert tried >= 10, "the examples were not found"
