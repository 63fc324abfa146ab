"""Draft on while the verdict is in flight: guess that everything stands, guess the bonus token, draft the next round.

A hit hides the whole next draft behind the wait (PEARL and PicoSpec, arXiv 2603.19133, pipeline likewise); a miss costs
nothing but energy. Coins belong to positions, so a hit's draft is token for token what stop-and-wait would have drawn.
"""


def run(talk):
    draft = talk.draft()
    while not talk.finished:
        if not talk.send(draft):
            draft = talk.draft()
            continue
        ahead = talk.draft_ahead(draft)
        talk.settle(draft)
        if not talk.finished:
            draft = talk.take(ahead) or talk.draft()
