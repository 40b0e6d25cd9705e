"""Environments that outlive their process: they are locked, kept, reused, and cleaned up.

An environment is a folder with a lock and a journal. When its owner is killed, the reaper cleans it
up, or else the next run does. The room may import from every other room of the engine, but not from
`plan`. `watchdog` imports nothing of the package.
"""
