"""Public names of a package that are imported on first use (PEP 562).

So reading a configuration, or loading the graph, imports neither torch nor numba.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_exports(package: str, module_of: Mapping[str, str]) -> Callable[[str], Any]:
    """Make the `__getattr__` of a package.

    Args:
        package: its `__name__`.
        module_of: public name → the module inside the package that defines it.
    """

    def import_on_first_use(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{module_of[name]}"), name)

    return import_on_first_use
