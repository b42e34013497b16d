# %% [markdown]
# # First regions
#
# Five boxes on a photograph, named in words of your choice. `pip install anyregion` is enough: no
# torch, no download, one processor core. Run it in the folder where it lies, beside the example
# photographs.

# %%
from pathlib import Path

import anyregion
from anyregion.drawing import draw

PHOTOS = Path("..")
recognizer = anyregion.load_recognizer()

# %% [markdown]
# Boxes come from a file (COCO, YOLO, Label Studio, CVAT, ...), a detector, or your hand. These were
# drawn by hand.

# %%
source = anyregion.load_regions(PHOTOS / "regions.json", images=PHOTOS)
launch = PHOTOS / "launch.jpg"
regions = source.find(launch).regions
regions.boxes

# %% [markdown]
# The vocabulary is an argument. The score says how often such an answer is right.

# %%
pixels = anyregion.read_image(launch)
recognizer.set_image(pixels)
predictions = recognizer.predict(regions, ["rocket", "steel tower", "tree", "person"])
print(predictions)
draw(pixels, predictions)

# %% [markdown]
# One tower is named with a low score: from a threshold on, such answers are refused.

# %%
draw(pixels, predictions.above(0.5))

# %% [markdown]
# The same regions in other words. The image is not encoded again, so this takes milliseconds.

# %%
print(recognizer.predict(regions, ["space vehicle", "scaffolding", "lamp post"]))

# %% [markdown]
# A region may also be a point: a box is grown from it, and with `masks=True` a mask.

# %%
astronaut = anyregion.read_image(PHOTOS / "astronaut.jpg")
recognizer.set_image(astronaut)
points = anyregion.Regions.from_prompts(points=[[[390, 430]], [[415, 150]], [[225, 90]]])
named = recognizer.predict(points, ["helmet", "space shuttle", "face", "flag"], masks=True)
print(named)
draw(astronaut, named)

# %% [markdown]
# The third point lies on the face, and grew to the whole astronaut, whom none of these names fits:
# what is drawn says what was named, and the lower score says that it may be wrong.
