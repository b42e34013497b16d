# %% [markdown]
# # Evaluation
#
# How often is a name right, and can its score be trusted? With annotations of your own the first
# cell is all that changes. Numbers of photographs that you tuned on say little: hold some out.

# %%
import json
import os
import tempfile
from pathlib import Path

import anyregion
from anyregion.drawing import draw
from anyregion.evaluation import EvaluationOptions, evaluate_classification

PHOTOS = Path("..")
coco = Path(os.environ.get("ANYREGION_SHARED", "")) / "data" / "coco"
folder = tempfile.TemporaryDirectory()

# %% [markdown]
# Boxes of the example photographs, with the names that a person gives them.

# %%
RIGHT = ["tower", "tower", "rocket", "tower", "tower", "rocket", "helmet", "flag", "cup", "cat"]
document = json.loads((PHOTOS / "regions.json").read_text())
names = sorted(set(RIGHT))
document["categories"] = [{"id": i + 1, "name": name} for i, name in enumerate(names)]
for annotation, name in zip(document["annotations"], RIGHT, strict=True):
    annotation["category_id"] = names.index(name) + 1
annotations = Path(folder.name) / "annotations.json"
annotations.write_text(json.dumps(document))
recognizer = anyregion.load_recognizer()
report = evaluate_classification(recognizer, annotations, PHOTOS, EvaluationOptions())
print(f"{report.regions} regions, {report.names} names: {report.top1:.0%} right")
print({name: f"{a.top1:.0%} of {a.regions}" for name, a in report.by_class.items()})

# %% [markdown]
# Ten regions are a demonstration and no measurement: one more that is right or wrong moves the
# figure by 10 points. More names make it harder. The same boxes among these and COCO's 80 names:

# %%
everyday = anyregion.load_vocabulary("coco").names
wide = anyregion.Vocabulary.from_names([*names, *(n for n in everyday if n not in names)])
harder = evaluate_classification(
    recognizer, annotations, PHOTOS, EvaluationOptions(vocabulary=wide)
)
print(f"{harder.names} names: {harder.top1:.0%} right, {harder.top5:.0%} among the five best")

# %% [markdown]
# What it got wrong is worth more than the figure: look at it.

# %%
source = anyregion.load_regions(PHOTOS / "regions.json", images=PHOTOS)
launch = PHOTOS / "launch.jpg"
pixels = anyregion.read_image(launch)
recognizer.set_image(pixels)
predictions = recognizer.predict(source.find(launch).regions, wide)
draw(pixels, predictions)

# %% [markdown]
# ## On a data set
#
# Where there are held-out photographs of COCO (`ANYREGION_SHARED`), the first 20 of them are
# measured. The expected calibration error (`ece`) says how far the scores are from how often they
# are right; `auroc` how well they tell right answers from wrong ones.

# %%
if (coco / "annotations" / "instances_val.json").is_file():
    measured = evaluate_classification(
        recognizer,
        coco / "annotations" / "instances_val.json",
        coco / "images",
        EvaluationOptions(limit=20),
    )
    print(f"{measured.regions} regions of {measured.images} photographs, {measured.names} names")
    print(f"top1 {measured.top1:.3f}, top5 {measured.top5:.3f}")
    print(f"mean score {measured.mean_score:.3f}")
    print(f"ece {measured.ece:.3f}, auroc {measured.auroc:.3f}")
    weakest = sorted(measured.by_class.items(), key=lambda item: item[1].top1)[:5]
    print("weakest:", ", ".join(f"{name} {a.top1:.0%} of {a.regions}" for name, a in weakest))
else:
    print("no data set here: ANYREGION_SHARED names no folder with data/coco")

# %%
folder.cleanup()
