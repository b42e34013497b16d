"""Writer of Pascal VOC: an XML file an image, and a list of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

from anyregion.errors import SetAside
from anyregion.files import write_text, writing
from anyregion.io.labels import ClassNames, LabelledImage
from anyregion.io.writers.writing import (
    Stems,
    WriteOptions,
    WriteReport,
    add_element,
    copy_image,
    inside,
    write_xml,
)


def write_voc(
    images: Iterable[LabelledImage], classes: ClassNames, out: Path, options: WriteOptions
) -> WriteReport:
    """Write `Annotations/<name>.xml` and `ImageSets/Main/default.txt`. Corners are whole pixels
    that count from 1 and include the last one, as VOC's.
    """
    report = WriteReport()
    stems, listed = Stems(report), []
    for image in images:
        stem = stems.of(image)
        if stem is None:
            continue
        if options.copy_images:
            target = out / "JPEGImages" / inside(image.name)
            if (fault := copy_image(image, options, target)) is not None:
                report.set_aside.append(SetAside(image.name, fault))
                continue
        write_xml(out / "Annotations" / f"{stem}.xml", _page(image))
        report.count(image)
        if len(str(stem).split()) > 1:
            reason = "left out of ImageSets/Main/default.txt: names there end at a space"
            report.set_aside.append(SetAside(image.name, reason))
        else:
            listed.append(str(stem))
    path = out / "ImageSets" / "Main" / "default.txt"
    with writing(path):
        write_text(path, "".join(f"{stem}\n" for stem in listed))
    report.files += [out / "Annotations", path]
    return report


def _page(image: LabelledImage) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    folder, _, name = image.name.rpartition("/")
    add_element(root, "folder", folder)
    # readers find the image by this name, which may lie in a folder
    add_element(root, "filename", image.name if folder else name)
    size = add_element(root, "size")
    for tag, side in (("width", image.size[1]), ("height", image.size[0]), ("depth", 3)):
        add_element(size, tag, side)
    add_element(root, "segmented", 0)
    for region in image.regions:
        item = add_element(root, "object")
        add_element(item, "name", region.label)
        for tag, text in (("pose", "Unspecified"), ("truncated", "0"), ("difficult", "0")):
            add_element(item, tag, text)
        corners = add_element(item, "bndbox")
        x0, y0, x1, y1 = (round(v) for v in region.box)
        # a box thinner than a pixel is one pixel
        pixels = (x0 + 1, y0 + 1, max(x1, x0 + 1), max(y1, y0 + 1))
        for tag, corner in zip(("xmin", "ymin", "xmax", "ymax"), pixels, strict=True):
            add_element(corners, tag, corner)
    return root
