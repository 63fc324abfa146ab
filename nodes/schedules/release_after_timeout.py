"""Look ahead; and when the edge stays silent, let the device's own tokens go to the user unseen and carry on.

SLED's fallback (Li et al. 2025, arXiv 2506.09397): a device that waited too long, and asked again in vain, releases its
draft. Until then it is `lookahead`, token for token. Their timeout is not published; a third of PATIENCE_S repeats the
round, the whole of it gives it up. Newer drafts are not merged into the repeated request, as theirs are.
"""

PATIENCE_S = 10.0


def run(talk):
    draft = talk.draft()
    while not talk.finished:
        if not talk.send(draft):
            draft = talk.draft()
            continue
        ahead = talk.draft_ahead(draft)
        if not talk.settle(draft, PATIENCE_S):
            talk.release(draft)
        if not talk.finished:
            draft = talk.take(ahead) or talk.draft()
