"""What reporters other than this package's get: reports of failed steps, properties, logs.

Each module hands its part to pytest, so that reporters show it without knowing this package.
"""
