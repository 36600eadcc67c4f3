"""How a request's end travels: its account, in numbers. Seconds."""

from __future__ import annotations

from dataclasses import astuple

from hfx.cost import Estimate
from hfx.engine.account import Account, Spent
from hfx.engine.delta import Delta
from hfx.request import Objective
from hfx.scheduler.admission import Outlook

from . import messages
from .messages import End


def end_of(delta: Delta) -> End:
    """A last delta's part that no earlier one has."""
    account = delta.account
    assert delta.finish_reason is not None and account is not None
    return End(
        delta.finish_reason,
        delta.stop_reason,
        delta.error,
        delta.preemptions,
        astuple(account.first),
        astuple(account.later),
        account.late_s,
        account.was_relegated,
        _packed(account),
    )


def account_of(end: End, objective: Objective) -> Account:
    """The account of a request that has ended so."""
    return Account(
        objective,
        outlook=_unpacked(end.outlook),
        first=Spent(*end.first),
        later=Spent(*end.later),
        has_run=True,
        was_relegated=end.was_relegated,
        late_s=end.late_s,
    )


def _packed(account: Account) -> messages.Outlook | None:
    outlook = account.outlook
    if outlook is None:
        return None
    return tuple(outlook.ttft_s), tuple(outlook.tpot_s), tuple(outlook.finish_s)  # type: ignore[return-value]


def _unpacked(packed: messages.Outlook | None) -> Outlook | None:
    if packed is None:
        return None
    ttft_s, tpot_s, finish_s = (Estimate(*each) for each in packed)
    return Outlook(ttft_s, tpot_s, finish_s)
