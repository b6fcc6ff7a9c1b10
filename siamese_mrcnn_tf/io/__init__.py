"""Files: read with errors that name them, written whole or not at all.

files: text and JSON.
download: downloads that resume.
images: image files.
"""
