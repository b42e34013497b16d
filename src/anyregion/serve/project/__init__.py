"""A project: a person's work on photographs, regions and names, in a folder of plain files."""
