"""Search images and videos for the objects of several categories, and write what was found."""
