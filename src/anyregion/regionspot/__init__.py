"""RegionSpot: a small trained module that joins a frozen localizer and a frozen VLM."""

from typing import TYPE_CHECKING

from anyregion.lazy import attach

if TYPE_CHECKING:
    from anyregion.regionspot.adapter import Adapter as Adapter
    from anyregion.regionspot.adapter import AdapterConfig as AdapterConfig
    from anyregion.regionspot.checkpoint import convert_checkpoint as convert_checkpoint
    from anyregion.regionspot.encoder import RegionSpotEncoder as RegionSpotEncoder

__getattr__, __dir__ = attach(
    __name__,
    {
        "adapter": "Adapter AdapterConfig",
        "checkpoint": "convert_checkpoint",
        "encoder": "RegionSpotEncoder",
    },
)
