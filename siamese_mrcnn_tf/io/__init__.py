"""Files: read with errors that name them, written whole or not at all.

files: text, JSON, folders and file names.
download: downloads that resume.
images: image files.
"""
