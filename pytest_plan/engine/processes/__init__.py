"""The programs that steps start, and their process trees.

A tree is started in its own session, found again by session, descent and cookie, and ended as a
whole. This room records nothing and does not know which step a program belongs to. It may use only
`model`.
"""
