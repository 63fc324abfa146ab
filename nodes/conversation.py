"""One request on the device: its tokens, its epoch, its rounds. Schedules drive it; methods never see it."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from typing import Any

from nodes.channel import Answer, Channel, EdgeError, EdgeSilent, SessionLost
from nodes.drafting import Drafter
from nodes.finish import Finish
from nodes.methods import Draft, Resolving
from nodes.policies.upload import Upload
from nodes.records import RoundRecord
from nodes.sampling import Coins
from nodes.session import Session
from transport.link import LinkError
from transport.messages import Open, Proposal, payload_bytes

log = logging.getLogger("dssd.device")

Watch = Callable[[RoundRecord, list[int]], bool]
"""Is told each round and the tokens it settled, as it ends; False: the request ends here."""

RESUMES = 10  # in a row with nothing settled between them: an edge that keeps losing a session will not keep it


@dataclass
class Ahead:
    """A draft made on a guess: `prefix` is what the tokens will be if the guess comes true, `guess` the token that it
    took a verdict to add, as a draft of that one token (of none, where a verdict adds none)."""

    prefix: list[int]
    guess: Draft
    draft: Draft


class Conversation:
    """`tokens` is what is settled: prompt and output. `record(RoundRecord)` receives every round once all is known of
    it, `watch` sooner."""

    def __init__(
        self,
        drafter: Drafter,
        channel: Channel | None,
        upload: Upload,
        session: Session,
        finish: Finish,
        coins: Coins,
        start_ns: int,
        opening: Open,
        template: RoundRecord,
        record: Callable[[RoundRecord], None],
        watch: Watch | None = None,
    ) -> None:
        self.drafter, self.method, self.channel, self.upload = drafter, drafter.method, channel, upload
        self.session, self.finish, self.coins, self.opening = session, finish, coins, opening
        self.tokens = list(session.tokens)
        self.finish_reason: str | None = None
        self.token_ns: list[int] = []  # when each output token was settled
        self.rounds = self.retries = self.resumed = 0
        self._template, self._record, self._watch = template, record, watch
        self._now: RoundRecord | None = None
        self._clock_ns = start_ns  # where the last round ended
        self._decided_ns = drafter.deciding_ns  # as it stood there
        self._asked_ns = start_ns  # since when the answer is waited for; what is sent again does not move it
        self._opened = False

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None

    @property
    def remaining(self) -> int:
        return self._remaining_after(self.tokens)

    # What schedules call ----------------------------------------------------------------------------------------------

    def draft(self) -> Draft:
        """A fresh draft after the settled tokens; empty for methods whose device does not draft."""
        if not self.method.drafts:
            return Draft(len(self.tokens), [], [], [], [])
        limit = self.remaining - self.method.adds
        return self.drafter.draft(self.session, self.tokens, self.coins, limit)

    def send(self, draft: Draft) -> bool:
        """Ask the edge about this draft. False: there was nothing to ask, the draft is settled as it stands."""
        drafted_ns = time.monotonic_ns()
        worth = self.upload.worth(draft, self.coins)
        judged_ns = time.monotonic_ns()
        draft.link = self.channel.meter.state if self.channel else None
        up = self.method.propose(draft, self.remaining) if worth else None
        record = self._begin(drafted_ns)
        record.policy_ms = (judged_ns - drafted_ns) / 1e6
        record.n_drafted = len(draft.tokens)
        if up is None:
            record.n_unverified = self._commit(draft.tokens)
            self._end(record)
            return False
        self._transmit(up, record)
        self._asked_ns = record.sent_ns
        record.encode_ms = (record.sent_ns - drafted_ns) / 1e6
        return True

    def settle(self, draft: Draft, patience_s: float | None = None) -> bool:
        """Wait for the verdict and make it so. False: the edge stayed silent for `patience_s`; of a stream, what came
        before the silence is settled, of any other method nothing."""
        lost, settled = 0, len(self.tokens)
        while True:
            try:
                if self.method.streams:
                    self._settle_stream(patience_s)
                else:
                    self._settle_round(draft, patience_s)
                return True
            except EdgeSilent:
                return False
            except SessionLost as error:
                lost = lost + 1 if len(self.tokens) == settled else 1
                settled = len(self.tokens)
                if lost > RESUMES:
                    raise EdgeError(
                        f"the edge lost this session {lost} times in a row, at last with: {error}. Remedy: see the "
                        "edge's log; edge.max_sessions has to cover all devices"
                    ) from error
                self._resume(draft)

    def ask_again(self, draft: Draft, ahead: Ahead | None) -> Draft:
        """The edge stayed silent: a new request in place of the one that went unanswered, with what was drafted
        meanwhile merged into it where the method takes any draft. Returns what is asked about now. The edge may have
        served the first request: this one begins where that began, and coins belong to positions, so both would be
        answered alike as far as both go."""
        if ahead is not None and self.method.takes_any_draft:
            draft = draft.followed_by(ahead.guess).followed_by(ahead.draft)
        up = self.method.propose(draft, self.remaining)
        assert up is not None, "it was sent once"
        record = self._current
        self._transmit(up, record)
        self._book_again(record, 1)
        record.n_drafted = len(draft.tokens)
        return draft

    def release(self, draft: Draft) -> None:
        """Give the round up: the drafted tokens are final as they stand, one is drawn where there are none, and they
        are counted. What the edge knows by now is not known here, so the next round opens a session of its own with the
        whole prefix."""
        record = self._current
        waited_ms = (time.monotonic_ns() - self._asked_ns) / 1e6
        record.roundtrip_ms += waited_ms
        record.network_ms += waited_ms
        self._channel.close_session()
        self._opened = False
        tokens = draft.tokens
        if not tokens:
            row = self.drafter.row_after(self.session, self.tokens)
            tokens = [self.method.draw(row, self.coins, len(self.tokens))]
        record.n_unverified = self._commit(tokens)
        self._end(record)

    def draft_ahead(self, draft: Draft) -> Ahead | None:
        """While the verdict is in flight: suppose all of `draft` stands, guess the token a verdict adds, draft on.
        None where there is nothing to look ahead to. Stops early when the verdict is there."""
        prefix = [*self.tokens, *draft.tokens]
        ends = self._remaining_after(prefix) <= self.method.adds or self.finish.cut(prefix, len(self.tokens))[1]
        if ends or not self.method.drafts:
            return None
        began_ns = time.monotonic_ns()
        guess = Draft(len(prefix), [], [], [], [])
        if self.method.adds:
            row = self.drafter.row_after(self.session, prefix)
            token = self.method.guess(row, self.coins, len(prefix))
            guess = Draft(len(prefix), [token], [float(row[token])], [row], [self.method.up.encode(row)])
        prefix += guess.tokens
        ahead = Ahead(prefix, guess, Draft(len(prefix), [], [], [], []))
        self._extend(ahead, self._channel.pending)
        self._current.lookahead_ms += (time.monotonic_ns() - began_ns) / 1e6
        return ahead

    def take(self, ahead: Ahead | None) -> Draft | None:
        """The draft made ahead, completed, if the guess came true; otherwise it is thrown away."""
        if ahead is None:
            return None
        record = self._current
        record.lookahead_hit = ahead.prefix == self.tokens
        if not record.lookahead_hit:
            record.n_discarded = len(ahead.draft.tokens)
            return None
        self._extend(ahead, lambda: False)
        return ahead.draft

    def close(self) -> None:
        self._emit()
        if self._opened:
            with suppress(LinkError):  # on a link that is lost there is nobody to tell
                self._channel.close_session()

    # Rounds -----------------------------------------------------------------------------------------------------------

    def _transmit(self, up: Proposal, record: RoundRecord) -> None:
        if not self._opened:
            record.up_wire_bytes += self._channel.open(self.opening)
            self._opened = True
        carried = len(self.tokens) - self._channel.edge_holds
        sent_ns, frames_bytes = self._channel.send(up, self.tokens, self.coins.epoch)
        record.sent_ns = record.sent_ns or sent_ns  # of the first try
        record.up_wire_bytes += frames_bytes
        record.up_ideal_bytes += payload_bytes(up) + 4 * carried

    def _resume(self, draft: Draft) -> None:
        """The edge lost the session: agree again, open it anew with the whole prefix, repeat the round."""
        self.resumed += 1
        self._book_again(self._current, 1)
        self._opened = False
        self._channel.agree()
        up = self.method.propose(draft, self.remaining)
        assert up is not None
        self._transmit(up, self._current)

    def _settle_round(self, draft: Draft, patience_s: float | None) -> None:
        record = self._current
        record.legs = 1
        verdict = self._hear_verdict(draft, patience_s)
        if not record.attempt:  # what was sent again tells of a loss
            self._channel.meter.add(record.up_wire_bytes + record.down_wire_bytes, record.network_ms)
        legs = self._resolve(draft, verdict)
        try:
            follow_up = next(legs)
            while True:
                self._asked_ns, frames_bytes = self._channel.follow_up(follow_up)
                record.up_wire_bytes += frames_bytes
                record.up_ideal_bytes += payload_bytes(follow_up)
                record.legs += 1
                verdict = self._hear_verdict(draft, patience_s)
                follow_up = legs.send(verdict)
        except StopIteration as stop:
            result = stop.value
        n = verdict.n_accepted
        self._channel.edge_holds = len(self.tokens) + n + len(verdict.tail)
        record.n_accepted = n
        if not self._commit([*draft.tokens[:n], *result]):
            raise EdgeError("the edge's verdict settles no token, nor would the next")
        if n < len(draft.tokens):
            self.coins = self.coins.at_epoch(self.coins.epoch + 1)
        self._end(record)

    def _hear_verdict(self, draft: Draft, patience_s: float | None) -> Any:
        verdict = self._hear(self._current, patience_s=patience_s).verdict
        if verdict.n_accepted > len(draft.tokens):
            raise EdgeError(f"the edge accepted {verdict.n_accepted} of {len(draft.tokens)} drafted tokens")
        return verdict

    def _resolve(self, draft: Draft, verdict: Any) -> Resolving:
        """The method's device half, of however many legs. Raises EdgeError for a verdict it can make nothing of."""
        try:
            result: Any = self.method.resolve(draft, verdict, self.coins)
            return (yield from result) if inspect.isgenerator(result) else result
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            log.exception("the verdict cannot be resolved")
            raise EdgeError(f"the edge's verdict cannot be resolved: {type(error).__name__}: {error}") from error

    def _settle_stream(self, patience_s: float | None) -> None:
        record = self._current
        edge_before_ms = 0.0
        while True:
            answer = self._hear(record, edge_before_ms, patience_s)
            edge_before_ms = answer.header.residence_us / 1e3
            verdict = answer.verdict
            record.n_accepted = verdict.n_accepted
            record.n_drafted = getattr(verdict, "drafted", 0)
            self._channel.edge_holds = len(self.tokens) + len(verdict.tail)
            self._commit(verdict.tail)
            if record.n_accepted < record.n_drafted:
                self.coins = self.coins.at_epoch(self.coins.epoch + 1)
            self._end(record)
            if self.finished:
                return
            if answer.header.final:
                raise EdgeError(f"the edge ended the stream with {self.remaining} tokens still to make")
            attempt, record = record.attempt, self._begin(self._clock_ns)
            record.attempt = attempt  # on the wire it is one round

    def _hear(self, record: RoundRecord, edge_before_ms: float = 0.0, patience_s: float | None = None) -> Answer:
        """Wait for a reply and book where its time went: `edge_before_ms` of residence was booked already."""
        try:
            answer = self._channel.wait(self.method.Down, patience_s)
        finally:
            self._book_again(record, *self._channel.retried())
        header = answer.header
        edge_ms = header.residence_us / 1e3 - edge_before_ms
        roundtrip_ms = (answer.received_ns - self._asked_ns) / 1e6
        self._asked_ns = answer.received_ns
        record.received_ns = answer.received_ns
        record.edge_arrived_ns = header.arrived_ns
        record.roundtrip_ms += roundtrip_ms
        record.edge_ms += edge_ms
        record.network_ms += roundtrip_ms - edge_ms
        record.queue_ms += header.queue_us / 1e3
        record.verify_ms += header.compute_us / 1e3
        record.edge_draft_ms += header.draft_us / 1e3
        record.batch = header.batch
        record.down_wire_bytes += answer.wire_bytes
        record.down_ideal_bytes += payload_bytes(answer.verdict)
        return answer

    def _book_again(self, record: RoundRecord, times: int, frames_bytes: int = 0) -> None:
        """The round was sent again; `frames_bytes` that are not booked elsewhere."""
        self.retries += times
        record.attempt += times
        record.up_wire_bytes += frames_bytes

    def _commit(self, tokens: list[int]) -> int:
        before = len(self.tokens)
        self.tokens, self.finish_reason = self.finish.cut([*self.tokens, *tokens], before)
        emitted = len(self.tokens) - before
        self._current.n_emitted = emitted
        self.token_ns += [time.monotonic_ns()] * emitted
        return emitted

    # Records: a round is written once the next begins, when it is known whether its look-ahead hit --------------------

    def _begin(self, drafted_ns: int) -> RoundRecord:
        self._emit()
        self.rounds += 1
        record = copy(self._template)
        record.round = self.rounds
        record.epoch = self.coins.epoch
        record.start_ns = self._clock_ns
        record.draft_ms = (drafted_ns - self._clock_ns) / 1e6
        self._now = record
        return record

    def _end(self, record: RoundRecord) -> None:
        record.end_ns = self._clock_ns = time.monotonic_ns()
        total_ms = (record.end_ns - record.start_ns) / 1e6
        record.resolve_ms = total_ms - record.draft_ms - record.encode_ms - record.roundtrip_ms
        record.policy_ms += (self.drafter.deciding_ns - self._decided_ns) / 1e6
        self._decided_ns = self.drafter.deciding_ns
        if self.method.drafts:
            self.drafter.stop.observe(record)
            record.policy_ms += (time.monotonic_ns() - record.end_ns) / 1e6
        if self._watch and not self._watch(record, self.tokens[len(self.tokens) - record.n_emitted :]):
            self.finish_reason = self.finish_reason or "interrupted"

    def _emit(self) -> None:
        if self._now is not None:
            self._record(self._now)
            self._now = None

    @property
    def _current(self) -> RoundRecord:
        assert self._now is not None, "no round was begun"
        return self._now

    @property
    def _channel(self) -> Channel:
        assert self.channel is not None, "this system has no edge"
        return self.channel

    def _remaining_after(self, tokens: list[int]) -> int:
        return self.finish.max_new_tokens - (len(tokens) - self.finish.prompt_tokens)

    def _extend(self, ahead: Ahead, interrupted: Callable[[], bool]) -> None:
        limit = self._remaining_after(ahead.prefix) - self.method.adds
        self.drafter.extend(self.session, ahead.prefix, ahead.draft, self.coins, limit, interrupted)
