"""Runs plans. Knows neither pytest nor pluggy, so a plain script can use it.

Data (`errors outcomes durations state step planned graph events results`) never imports
behaviour (`attempt cleanup executor run`); tests/test_layers.py holds the line.
"""
