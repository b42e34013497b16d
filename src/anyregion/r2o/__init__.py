"""R2O (arXiv 2208.11821): an image encoder pretrained by the regions of unlabelled images."""

from typing import TYPE_CHECKING

from anyregion.lazy import attach

if TYPE_CHECKING:
    from anyregion.r2o.label_store.image_list import list_images as list_images
    from anyregion.r2o.label_store.store import LabelStore as LabelStore
    from anyregion.r2o.method import R2O as R2O
    from anyregion.r2o.superpixels import PriorConfig as PriorConfig
    from anyregion.r2o.superpixels import segment as segment

__getattr__, __dir__ = attach(
    __name__,
    {
        "label_store.image_list": "list_images",
        "label_store.store": "LabelStore",
        "method": "R2O",
        "superpixels": "PriorConfig segment",
    },
)
