"""Callbacks after the import of a module."""

from __future__ import annotations

import importlib
import importlib.resources
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from kaywatch._instrument.imports import forget, when_imported


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    before, finders = set(sys.modules), list(sys.meta_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]
    assert sys.meta_path == finders


def test_the_callback_of_an_imported_module_is_called_at_once() -> None:
    imported: list[ModuleType] = []

    when_imported("json", imported.append)

    assert imported == [importlib.import_module("json")]
    forget(imported.append)


def test_the_callback_is_called_once_after_each_import(home: Path) -> None:
    (home / "late_one.py").write_text("value = 1\n")
    imported: list[int] = []

    def note(module: ModuleType) -> None:
        imported.append(module.value)

    when_imported("late_one", note)
    when_imported("late_one", note)
    assert imported == []

    module = importlib.import_module("late_one")
    importlib.reload(module)

    assert imported == [1, 1]
    del sys.modules["late_one"]
    importlib.import_module("late_one")
    assert imported == [1, 1, 1]
    assert module.__spec__ is not None
    assert "exec_module" not in vars(module.__spec__.loader)
    forget(note)


def test_modules_are_found_by_the_last_part_of_their_name(home: Path) -> None:
    (home / "vendor").mkdir()
    (home / "vendor/__init__.py").write_text("")
    (home / "vendor/late_part.py").write_text("")
    imported: list[str] = []

    def note(module: ModuleType) -> None:
        imported.append(module.__name__)

    when_imported("*.late_part", note)
    importlib.import_module("vendor.late_part")
    when_imported("*.late_part", note)

    assert imported == ["vendor.late_part", "vendor.late_part"]
    forget(note)


def test_a_package_keeps_its_resources(home: Path) -> None:
    (home / "late_package").mkdir()
    (home / "late_package/__init__.py").write_text("")
    (home / "late_package/inner.py").write_text("")
    (home / "late_package/note.txt").write_text("read me")
    imported: list[str] = []

    def note(module: ModuleType) -> None:
        imported.append(module.__name__)

    when_imported("late_package.inner", note)
    when_imported("late_package", note)

    importlib.import_module("late_package.inner")

    assert imported == ["late_package", "late_package.inner"]
    text = importlib.resources.files("late_package").joinpath("note.txt").read_text()
    assert text == "read me"
    forget(note)


def test_a_module_in_an_archive(home: Path) -> None:
    with zipfile.ZipFile(home / "some.zip", "w") as archive:
        archive.writestr("zipped_one.py", "value = 2\n")
        archive.writestr("zipped_other.py", "value = 3\n")
    sys.path.insert(0, str(home / "some.zip"))
    imported: list[int] = []

    def note(module: ModuleType) -> None:
        imported.append(module.value)

    when_imported("zipped_one", note)
    try:
        importlib.import_module("zipped_one")
        importlib.import_module("zipped_other")
    finally:
        sys.path.remove(str(home / "some.zip"))

    assert imported == [2]
    forget(note)


def test_a_failing_import_raises_as_usual_and_a_later_one_calls_back(
    home: Path,
) -> None:
    (home / "late_wrong.py").write_text("1 / 0\n")
    imported: list[ModuleType] = []
    when_imported("late_wrong", imported.append)
    when_imported("late_absent", imported.append)

    with pytest.raises(ZeroDivisionError):
        importlib.import_module("late_wrong")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("late_absent")
    (home / "late_wrong.py").write_text("value = 'fixed'\n")
    importlib.invalidate_caches()
    importlib.import_module("late_wrong")

    assert [module.__name__ for module in imported] == ["late_wrong"]
    forget(imported.append)


def test_an_error_of_the_callback_is_logged_and_not_raised(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (home / "late_trouble.py").write_text("")

    def fail(module: ModuleType) -> None:
        raise KeyError(module.__name__)

    when_imported("late_trouble", fail)
    importlib.import_module("late_trouble")

    assert "late_trouble cannot be recorded" in caplog.text
    forget(fail)
