"""Steps that start a server of a well-known kind: databases and brokers.

Each server has a module with its class. The others have what these share. This room uses only the
engine and the lower modules of this layer.
"""
