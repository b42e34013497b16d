"""Lazy re-exports: names of a package that are imported from its modules when first used."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def attach(
    package: str, names: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` (PEP 562) for a package's `__init__`.

    Args:
        package: its `__name__`.
        names: by module within the package, the names that it defines, parted by spaces. Type
            checkers read them from imports under `TYPE_CHECKING`.
    """
    modules = {name: module for module, listed in names.items() for name in listed.split()}

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{modules[name]}"), name)
        # the next use finds it as any other attribute
        setattr(import_module(package), name, value)
        return value

    return load, lambda: [*vars(import_module(package)), *modules]
