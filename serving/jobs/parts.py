"""What the jobs are kept in, opened together."""

from __future__ import annotations

from dataclasses import dataclass

from imaging.errors import RecordsAway
from serving.jobs.catalogue import Catalogue
from serving.jobs.ledger import Ledger
from serving.jobs.queue import QUEUE_ERRORS, Queue, open_queue
from serving.jobs.roll import Roll
from serving.jobs.spool import Spool
from serving.jobs.tables import Records
from serving.settings import Settings

_AWAY_S = 5


@dataclass(frozen=True)
class Parts:
    """The parts of one spool and database, as one process holds them open.

    Attributes:
        spool: files.
        records: the database.
        ledger: changes of the jobs' records.
        catalogue: questions about them.
        roll: the workers' rows.
        queue: ids of jobs that wait.
    """

    spool: Spool
    records: Records
    ledger: Ledger
    catalogue: Catalogue
    roll: Roll
    queue: Queue

    @classmethod
    def open(cls, settings: Settings) -> Parts:
        """Open them, and make what is missing.

        Raises:
            BadParameter: the spool cannot be used.
            RecordsAway: the database cannot be reached.
            RecordsDamaged: it cannot be made out.
            ServiceFailed: the records are another version's.
        """
        spool = Spool(settings.spool)
        embedded = f"sqlite:///{spool.records / 'jobs.db'}"
        records = Records(settings.database or embedded)
        try:
            with records.alone():
                queue = open_queue(spool.records, settings.database)
        except QUEUE_ERRORS as error:
            records.close()
            raise RecordsAway(
                f"The queue of jobs cannot be reached ({type(error).__name__}); try again.",
                retry_after_s=_AWAY_S,
            ) from error
        most = settings.queue
        ledger, catalogue = Ledger(records, most), Catalogue(records, most)
        return cls(spool, records, ledger, catalogue, Roll(records), queue)

    def close(self) -> None:
        """Let go of files and connections."""
        self.queue.close()
        self.records.close()
