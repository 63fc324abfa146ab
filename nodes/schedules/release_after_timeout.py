"""Look ahead; when the edge stays silent, ask anew with what was drafted meanwhile; and when it stays silent for good,
let the device's own tokens go to the user unseen and carry on.

SLED's fallback (Li et al. 2025, arXiv 2506.09397): at a timeout newer drafts are merged into a fresh request, after
repeated failure the device releases its draft. Until the first timeout it is `lookahead`, token for token; merging
changes no token either, since it is done only for methods whose verdict does not depend on where a draft came from.
Their timeout and the number of tries are not published: PATIENCE_S in all, in TRIES parts. Of a method that streams the
silences between replies count, and its device, which has drafted nothing, releases one token of its own.
"""

PATIENCE_S = 10.0
TRIES = 3


def run(talk):
    draft = talk.draft()
    while not talk.finished:
        if not talk.send(draft):
            draft = talk.draft()
            continue
        ahead, tries = talk.draft_ahead(draft), 1
        while not talk.settle(draft, PATIENCE_S / TRIES):
            if tries == TRIES:
                talk.release(draft)
                break
            draft, tries = talk.ask_again(draft, ahead), tries + 1
            ahead = talk.draft_ahead(draft)
        if not talk.finished:
            draft = talk.take(ahead) or talk.draft()
