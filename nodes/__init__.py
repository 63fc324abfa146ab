"""The two nodes and everything they run: start with device.py and edge.py."""
