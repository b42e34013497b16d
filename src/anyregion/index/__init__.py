"""Regions of a collection embedded once, and named, searched and counted in any words later.

The package needs the extra `[index]`.
"""

from typing import TYPE_CHECKING

from anyregion.errors import require
from anyregion.lazy import attach

if TYPE_CHECKING:
    from anyregion.index.build import IndexOptions
    from anyregion.index.create import IndexReport, index_images
    from anyregion.index.engines import EngineOptions
    from anyregion.index.labels import LabelOptions
    from anyregion.index.naming import NamedIndex, name_index
    from anyregion.index.region_index import RegionIndex
    from anyregion.index.region_tables import table_of_doubtful, table_of_images
    from anyregion.index.results import write_results
    from anyregion.index.search import Match, Query, search_index, write_matches
    from anyregion.index.stats import IndexStats, index_stats, write_stats

require("index", "pyarrow", "fsspec", "threadpoolctl")

__getattr__, __dir__ = attach(
    __name__,
    {
        "build": "IndexOptions",
        "create": "IndexReport index_images",
        "engines": "EngineOptions",
        "labels": "LabelOptions",
        "naming": "NamedIndex name_index",
        "region_index": "RegionIndex",
        "region_tables": "table_of_doubtful table_of_images",
        "results": "write_results",
        "search": "Match Query search_index write_matches",
        "stats": "IndexStats index_stats write_stats",
    },
)

__all__ = [
    "EngineOptions", "IndexOptions", "IndexReport", "IndexStats", "LabelOptions", "Match",
    "NamedIndex", "Query", "RegionIndex", "index_images", "index_stats", "name_index",
    "search_index", "table_of_doubtful", "table_of_images", "write_matches", "write_results",
    "write_stats",
]  # fmt: skip
