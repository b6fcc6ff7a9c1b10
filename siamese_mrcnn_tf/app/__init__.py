"""The page to try it: open images, draw a box around one object, see the others found. Served to a browser."""
