"""The code of steps, as fingerprints need it: the source of functions, and the data they hold."""
