"""A wheel over a dropdown must not change a report by accident."""

import qt


class WheelGuard(qt.QObject):
    """Swallows the wheel over widgets that have not the keyboard focus."""

    def eventFilter(self, watched, event):
        """Say whether the event ends here."""
        return event.type() == qt.QEvent.Wheel and not watched.hasFocus()
