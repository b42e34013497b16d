# %% [markdown]
# # Where a region looks
#
# RegionSpot's idea is that a region is a token, which looks at the whole image before it is named.
# The built-in model does the same at a small size. Here is where its regions look, and what their
# answers are made of.

# %%
import os
from pathlib import Path

import anyregion
from anyregion.drawing.attention import draw_explanation, overlay_attention
from anyregion.explain import explain

PHOTOS = Path("..")
recognizer = anyregion.load_recognizer()

# %% [markdown]
# The helmet of the astronaut. Bright cells are those that the region attends to, in the last of two
# layers: the rim of the helmet, and beside it the collar ring and a hose of the suit, where it
# belongs.

# %%
photo = anyregion.read_image(PHOTOS / "astronaut.jpg")
helmet = anyregion.Regions.from_boxes([[278, 344, 508, 512]])
explanation = explain(recognizer, photo, helmet, ["helmet", "flag", "person"])
draw_explanation(photo, explanation)

# %%
print(*explanation.sentences(), sep="\n")

# %% [markdown]
# The model of the space shuttle, in the same photograph. Its region looks at the helmet and the
# suit more than at itself: what it *is* comes in by the features of the region, and attention adds
# what is around it.

# %%
shuttle = anyregion.Regions.from_boxes([[355, 0, 472, 290]])
second = explain(recognizer, photo, shuttle, ["space shuttle", "helmet", "flag", "person"])
print(second.sentences()[0])
draw_explanation(photo, second)

# %% [markdown]
# So attention says where a region looked, not why it was named so. For the built-in model the rest
# is known exactly: the cosine of a region with a name is a sum of three parts.

# %%
for i, name in enumerate(explanation.labels):
    parts = {part: round(float(v[i]), 3) for part, v in explanation.parts.cosines.items()}
    print(f"{name:>8} {explanation.cosines[i]:6.3f} =", parts)

# %% [markdown]
# ConSE's part needs no training: these ImageNet classes carried it for the best name.

# %%
for part in explanation.classes[:5]:
    print(f"{part.name:>16}  probability {part.probability:.3f}, adds {part.cosines[0]:+.3f}")

# %% [markdown]
# ## RegionSpot itself
#
# Its cross-attention is drawn by the same call. That needs weights that were trained: random ones
# would give a picture without a meaning, so none is shown. State the folder of a converted
# checkpoint (`anyregion convert`, see docs/guides/regionspot.md) in `ANYREGION_REGIONSPOT`, and
# this cell shows its three layers.

# %%
folder = os.environ.get("ANYREGION_REGIONSPOT")
pictures = []
if folder:
    published = anyregion.load_recognizer(folder)
    for layer in range(3):
        seen = explain(published, photo, helmet, ["helmet", "flag", "person"], layer=layer)
        pictures.append(draw_explanation(photo, seen))
        print(f"layer {layer + 1}:", *seen.sentences())
else:
    print("no RegionSpot here: ANYREGION_REGIONSPOT names no folder")

# %% [markdown]
# The built-in model's first layer, for comparison with its last above.

# %%
first = explain(recognizer, photo, helmet, ["helmet", "flag", "person"], layer=0)
attention = first.attention
pictures[0] if pictures else overlay_attention(photo, attention.weights, extent=attention.extent)
