"""Defines what users see of the plugin: its options and its hooks.

This package uses no other package of the plugin.
"""
