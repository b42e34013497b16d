"""Images of a training: read again, each step."""

from __future__ import annotations

from anyregion.errors import InputError
from anyregion.images import Pixels, read_image
from anyregion.r2o.label_store.store import LabelStore

ONE_VALUE = "more than 1 value per channel"
"""What torch says where a BatchNorm cannot count: an image alone, of one cell."""


def read_again(store: LabelStore, image: int) -> Pixels:
    """The pixels of an image of the training.

    Raises:
        InputError: its file is gone, or has become unreadable since its label map was made.
    """
    try:
        return read_image(store.path(image))
    except InputError as error:
        raise InputError(
            f"{error}. It could be read when the label maps were made. The same command goes on "
            "from the last checkpoint, without the image if it is gone"
        ) from None
