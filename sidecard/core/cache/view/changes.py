"""The changes of views that an event makes, in order: they precede the event's other effects."""

from sidecard.core.effects import Effect, OpenView, Publish, RetireView, Withdraw, WithdrawAll


class ViewChanges:
    """Collects changes. Withdrawals in a row become one effect."""

    def __init__(self) -> None:
        self.pending = False
        """There is at least one change."""
        self._effects: list[Effect] = []
        self._view = 0
        self._slots: list[int] = []
        """Slots of ``_view`` that were emptied since the last effect."""

    def add(self, effect: OpenView | Publish | WithdrawAll | RetireView) -> None:
        """Add a change."""
        self._end_row()
        self._effects.append(effect)
        self.pending = True

    def withdraw(self, view: int, slot: int) -> None:
        """Empty a slot of a view."""
        if view != self._view:
            self._end_row()
            self._view = view

        self._slots.append(slot)
        self.pending = True

    def drain(self) -> list[Effect]:
        """Return the effects, and start a new collection."""
        self._end_row()
        effects, self._effects, self.pending = self._effects, [], False
        return effects

    def _end_row(self) -> None:
        if self._slots:
            self._effects.append(Withdraw(self._view, tuple(self._slots)))
            self._slots = []
