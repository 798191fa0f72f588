"""A reader for tests that want all messages of some bytes at once, decoded."""

from sidecard.server.reader import Incoming, RequestReader
from sidecard_client.protocol.errors import FramingError


class WholeReader(RequestReader):
    """Splits and decodes in one step; in the daemon, turns are between the two."""

    def feed(self, data: bytes) -> list[Incoming]:
        """Take received bytes and return complete messages, as many as `take_more` does. Raises as that does."""
        return self.receive(data) or self.take_more()

    def take_more(self) -> list[Incoming]:
        """Return further complete messages, decoded; raise as `split_more` does, with decoded messages."""
        try:
            messages = list(map(self.decode, self.split_more()))
        except FramingError as fault:
            fault.before = tuple(map(self.decode, fault.before))
            raise

        if not self.has_more:
            self.note_partial()

        return messages

    def finish(self) -> list[Incoming]:
        """At the end of the stream, return as many messages as `take_more`. The last line may lack its line feed."""
        self.end()
        return self.take_more()
