"""Teaching the built-in model on real photographs: blood cells, which its words do not know."""

from __future__ import annotations

from anyregion import Teacher, load_recognizer, load_regions
from anyregion.io.regions import ImageEntry
from tests.helpers.shared import SHARED, needs_shared

TAUGHT, JUDGED = 6, 5


@needs_shared
def test_blood_cells_are_learnt_from_six_photographs() -> None:
    folder = SHARED / "data" / "odinw_style" / "bccd"
    file = load_regions(folder / "annotations" / "instances_train.json", scores=False)
    entries = [e for e in file.images.values() if len(e.regions)][: TAUGHT + JUDGED]
    names = list(file.categories.values())
    recognizer = load_recognizer()
    teacher = Teacher(recognizer, names)

    def labels(entry: ImageEntry) -> list[str]:
        return [file.categories[c] for c in entry.regions.categories.tolist()]

    for entry in entries[:TAUGHT]:
        teacher.add(folder / "images" / entry.file_name, entry.regions, labels(entry))
    taught = teacher.vocabulary()
    right, by_words, count = 0, 0, 0
    for entry in entries[TAUGHT:]:
        recognizer.set_image(folder / "images" / entry.file_name)
        truth = labels(entry)
        for vocabulary in (taught, names):
            answer = recognizer.predict(entry.regions, vocabulary).labels
            correct = sum(a == b for a, b in zip(answer, truth, strict=True))
            right += correct * (vocabulary is taught)
            by_words += correct * (vocabulary is names)
        count += len(truth)
    assert right / count > 0.9 > 0.4 > by_words / count
