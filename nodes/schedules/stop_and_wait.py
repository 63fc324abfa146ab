"""Draft, send, wait, settle: one thing at a time."""


def run(talk):
    while not talk.finished:
        draft = talk.draft()
        if talk.send(draft):
            talk.settle(draft)
