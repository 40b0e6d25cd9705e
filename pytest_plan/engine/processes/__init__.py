"""The programs that steps start, and their process trees.

This package starts each tree in its own session, finds its members by session, descent and
cookie, and ends it as a whole. It records nothing and does not know which step a program belongs
to. It may import only from `model`.
"""
