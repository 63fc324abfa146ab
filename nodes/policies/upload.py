"""Is this draft worth sending? A policy that skips leaves tokens the target never saw, and makes a system inexact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from nodes.methods import Draft
from nodes.policies import make_policy
from nodes.sampling import Coins


class Always:
    """Every draft is verified."""

    exact: ClassVar[bool] = True

    def worth(self, draft: Draft, coins: Coins) -> bool:
        return True


POLICIES = {"always": Always}


def make_upload(spec: Mapping[str, Any] | str) -> Always:
    return make_policy("upload", POLICIES, spec)
