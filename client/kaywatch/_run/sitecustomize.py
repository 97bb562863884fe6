"""Imported by every Python process under `kaywatch run`: instruments frameworks.

Strategy: `kaywatch run` puts this folder first in PYTHONPATH, so `site` finds this
module instead of the one that it would have found. This module then imports the other
one, and the application sees only that one, or none. Nothing of kaywatch is imported
before the process imports a framework, which most processes never do.

Older Pythons, and ones without kaywatch, import this module too. So it has no
annotations, and must neither fail nor print anything there.
"""

import os
import sys

FRAMEWORKS = ("kaygraph", "pocketflow")  # as in kaywatch._instrument.frameworks


class FrameworkFinder(object):
    """Finds no module; instruments a framework when it is looked for."""

    def find_spec(self, name, path=None, target=None):
        """Return the result of the other finders, once kaywatch has hooked them."""
        if name not in FRAMEWORKS or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        instrument()
        from importlib.util import find_spec

        return find_spec(name)


def instrument():
    """Instrument frameworks when they are imported, if kaywatch is installed."""
    try:
        from kaywatch._instrument.frameworks import instrument_when_imported

        instrument_when_imported()
    except ImportError:
        pass  # without kaywatch; `kaywatch run` has warned if it knew
    except Exception:
        import logging

        logging.getLogger("kaywatch").warning("cannot instrument", exc_info=True)


def instrument_on_import():
    """Call `instrument` as soon as a framework is imported."""
    if sys.version_info < (3, 11):
        return
    if any(name in sys.modules for name in FRAMEWORKS):  # as by a .pth file
        instrument()
    else:
        sys.meta_path.insert(0, FrameworkFinder())


folder = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != folder]
sys.path_importer_cache.pop(folder, None)
this = sys.modules.pop(
    "sitecustomize", None
)  # kept, since Python 2 clears a module without references
try:
    # `site` handles its exceptions as it would without this module.
    __import__("sitecustomize")
finally:
    instrument_on_import()
