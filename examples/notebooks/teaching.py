# %% [markdown]
# # Teaching
#
# Words do not say everything: "my cup" is one cup of many. A few corrected regions teach a name in
# a moment, with no training run and no graphics card. Words and corrections are mixed: the more
# corrections, the more they count.

# %%
from pathlib import Path

import anyregion
from anyregion.drawing import draw

PHOTOS = Path("..")
recognizer = anyregion.load_recognizer()
source = anyregion.load_regions(PHOTOS / "regions.json", images=PHOTOS)
launch = PHOTOS / "launch.jpg"
pixels, regions = anyregion.read_image(launch), source.find(launch).regions
recognizer.set_image(pixels)

# %% [markdown]
# The four towers guard the rocket against lightning. Site staff would call them "lightning mast".
# As words alone, that is not what the model thinks of them.

# %%
NAMES = ["rocket", "lightning mast", "crane"]
before = recognizer.predict(regions, NAMES)
print(before)
draw(pixels, before)

# %% [markdown]
# Two regions are corrected: the leftmost tower, and the rocket. The other three towers stay unseen.

# %%
teacher = anyregion.Teacher(recognizer, NAMES)
teacher.add(launch, regions[[0, 2]], ["lightning mast", "rocket"])
taught = teacher.vocabulary()
after = recognizer.predict(regions, taught)
print(after)
draw(pixels, after)

# %% [markdown]
# The three towers that nobody corrected, before and after:

# %%
for row in (1, 3, 4):
    first, then = before[row], after[row]
    print(f"{first.label:>15} {first.score:.2f}   ->   {then.label:>15} {then.score:.2f}")

# %% [markdown]
# One tower is still called a rocket, and with a higher score than before: two corrections are few,
# and it is the one whose foot stands in the same glare. It is corrected too. Judge a taught name by
# what it says of other photographs.

# %%
teacher.add(launch, regions[[3]], ["lightning mast"])
taught = teacher.vocabulary()
third = recognizer.predict(regions, taught)
print(third)
draw(pixels, third)

# %% [markdown]
# "None of these" can be taught too (`None` in place of a name), a taught vocabulary is a small file
# (`taught.save("mine.vocab")`), and `anyregion teach` does the same for a folder of corrections.
# This is one photograph, and so shows how it works, not how well: learning curves on held-out
# photographs are measured by `anyregion evaluate teaching`.
taught.vocabulary.names
