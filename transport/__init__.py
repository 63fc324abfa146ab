"""How the two nodes talk: messages, their wire format, links, codecs, clocks. Knows no method and no model."""
