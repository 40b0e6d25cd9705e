"""Makes the pictures of README and the documentation: `python -m tests.docs.pictures`.

All of them show one real run. It needs the extra `browser` and Chromium.
"""
