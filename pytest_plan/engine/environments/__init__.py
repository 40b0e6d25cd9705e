"""Environments that can outlive their process: locks, reuse, and cleanup by a later process.

An environment is a folder with a lock and a journal. If its owner is killed, the reaper cleans up
the environment; if the reaper is killed too, the next run does it. This package may import from
every other package of the engine, but not from `plan`. `watchdog` imports nothing from the
package.
"""
