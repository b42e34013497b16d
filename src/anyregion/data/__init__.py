"""Annotated images as columns, and what is computed of them once: readers, checks, a store."""

from typing import TYPE_CHECKING

from anyregion.lazy import attach

if TYPE_CHECKING:
    from anyregion.data.annotations.annotations import Annotations as Annotations
    from anyregion.data.annotations.reading import read_annotations as read_annotations
    from anyregion.data.store.build_store import fill_store as fill_store
    from anyregion.data.store.store import Store as Store
    from anyregion.data.store.store import create_store as create_store

__getattr__, __dir__ = attach(
    __name__,
    {
        "annotations.annotations": "Annotations",
        "annotations.reading": "read_annotations",
        "store.build_store": "fill_store",
        "store.store": "Store create_store",
    },
)
