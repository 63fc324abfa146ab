"""A link that changes while a run lasts.

trace     points over time; where they loop
files     reads our CSV, Mahimahi deliveries and rates a second; writes the CSV
spec      how a configuration says it: which file, from where, how fast; outages
generate  makes traces: on and off, a walk, a fading channel, handovers
player    applies them to a live lab, and writes down when what was applied
sketch    a trace in words, and as lines of blocks
"""
