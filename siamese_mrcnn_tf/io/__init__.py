"""Files: read with errors that name them, written whole or not at all.

files: text, JSON, folders and file names.
json_text: JSON that orjson refuses, and where it is broken.
web: requests to web servers.
download: downloads that resume.
cache: the folder of downloads of the user.
locks: locks between processes.
decoding: image files are opened by a list of formats and up to a number of pixels.
processes: worker threads and worker processes.
images: image files, read as 8-bit RGB.
orientation: their orientation tags.
intensity: images of more than 8 bits.
"""
