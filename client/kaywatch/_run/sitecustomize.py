"""Imported by every Python process below `kaywatch run`: has kaywatch wait for it.

Strategy: `kaywatch run` puts this folder in front of PYTHONPATH, so `site` finds this
module in place of the one that it would have found. That one is imported from here,
and it, or the lack of it, is what the application sees. Of kaywatch nothing is
imported before the process imports a framework, which most processes never do.

Other Pythons come here too, older ones and some that have no kaywatch: for these it is
written without annotations, and must neither fail nor say anything.
"""

import os
import sys

FRAMEWORKS = ("kaygraph", "pocketflow")  # as in kaywatch._instrument.frameworks


class FrameworkFinder(object):
    """Finds no module; it has kaywatch imported when a framework is looked for."""

    def find_spec(self, name, path=None, target=None):
        """Return what the other finders find, once kaywatch has hooked them."""
        if name not in FRAMEWORKS or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        watch()
        from importlib.util import find_spec

        return find_spec(name)


def watch():
    """Have frameworks instrumented, where kaywatch is installed."""
    try:
        from kaywatch._instrument.frameworks import instrument_when_imported

        instrument_when_imported()
    except ImportError:
        pass  # an environment without kaywatch; `kaywatch run` told if it knew
    except Exception:
        import logging

        logging.getLogger("kaywatch").warning("nothing is watched", exc_info=True)


def wait():
    """Call `watch` as soon as a framework is imported."""
    if sys.version_info < (3, 11):
        return
    if any(name in sys.modules for name in FRAMEWORKS):  # by a .pth file, say
        watch()
    else:
        sys.meta_path.insert(0, FrameworkFinder())


folder = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != folder]
sys.path_importer_cache.pop(folder, None)
this = sys.modules.pop("sitecustomize", None)  # referred to, or Python 2 clears it
try:
    # Whatever it raises, `site` handles as it would without us.
    __import__("sitecustomize")
finally:
    wait()
