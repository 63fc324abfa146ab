"""Delay models of speculative decoding, alone and distributed. Letters in the docstrings are the papers'.

alpha: probability that a drafted token is accepted, the same at every position (which is the models' weakest
assumption); gamma: draft length; T_SLM, T_LLM: a forward of draft and target; NTT: what a round trip takes beside the
bytes; R: rates; times in ms, sizes in bytes, rates in Mbit/s (None: unlimited).
"""

from __future__ import annotations


def expected_tokens(acceptance: float, draft_length: float) -> float:
    """(1 - alpha^(gamma+1)) / (1 - alpha): tokens a round settles, the one that follows included (Leviathan et al.
    2023, arXiv 2211.17192, eq. 1)."""
    if acceptance == 1:
        return draft_length + 1
    return (1 - acceptance ** (draft_length + 1)) / (1 - acceptance)


def rejection_share(acceptance: float, draft_length: float) -> float:
    """1 - alpha^gamma: rounds in which some drafted token is rejected."""
    return 1 - acceptance**draft_length


def sd_walltime_factor(acceptance: float, draft_length: float, cost_ratio: float) -> float:
    """(1 - alpha^(gamma+1)) / ((1 - alpha)(gamma c + 1)), c = T_SLM / T_LLM: how many times as fast as the target alone
    where both models are in one place (Leviathan et al. 2023, theorem 3.8)."""
    return expected_tokens(acceptance, draft_length) / (draft_length * cost_ratio + 1)


def transfer_ms(size_bytes: float, rate_mbps: float | None) -> float:
    """D / R."""
    return size_bytes * 8 / (rate_mbps * 1e3) if rate_mbps else 0.0


def dsd_round_ms(
    draft_length: float, draft_ms: float, target_ms: float, up_bytes: float, up_mbps: float | None, ntt_ms: float
) -> float:
    """gamma T_SLM + T_LLM + gamma V b / R_up + NTT; `up_bytes` is gamma V b. Nothing is billed for the way down (DSD as
    modelled in Ning et al., arXiv 2507.12000)."""
    return draft_length * draft_ms + target_ms + transfer_ms(up_bytes, up_mbps) + ntt_ms


def dssd_round_ms(
    acceptance: float,
    draft_length: float,
    draft_ms: float,
    target_ms: float,
    row_bytes: float,
    down_mbps: float | None,
    ntt_ms: float,
) -> float:
    """gamma T_SLM + T_LLM + (1 - alpha^gamma) V b / R_down + NTT; `row_bytes` is V b. Nothing is billed for the way up
    (Ning et al., arXiv 2507.12000, eq. 9 and 13)."""
    row_ms = rejection_share(acceptance, draft_length) * transfer_ms(row_bytes, down_mbps)
    return draft_length * draft_ms + target_ms + row_ms + ntt_ms


def critical_rtt_ms(tokens_per_round: float, other_ms_per_token: float, round_without_rtt_ms: float) -> float:
    """The round trip at which a distributed round gives its tokens no sooner than the other system; below 0: never.

    Against the target alone and with nothing billed for bytes it is (E[tau] - 1) t_ar - gamma t_a ("Speculation at a
    distance", arXiv 2606.25091); against both models in one place its round leaves gamma (t_edge - t_device)."""
    return tokens_per_round * other_ms_per_token - round_without_rtt_ms
