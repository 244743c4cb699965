"""The one exception tree of Islet.

Every class carries a stable ``code`` for machines; every message is a sentence that names the
offending value and the fix for people. HTTP statuses are decided from this tree, in one place
(``serving.statuses``)::

    IsletError
    ├── InputError                  the bytes that came in are at fault
    │   ├── UnsupportedFormat       unsupported_format   no image that Islet reads
    │   ├── TruncatedFile           truncated_file       the file ends too early or does not decode
    │   ├── EmptyInput              empty_input          nothing in the folder, archive or body
    │   ├── InputTooLarge           input_too_large      over a limit on bytes, files or voxels
    │   ├── UnsafeArchive           unsafe_archive       encrypted, escaping or made to cost
    │   ├── BadShape                bad_shape            not one 3D frame
    │   ├── BadGeometry             bad_geometry         no grid, or none that a scanner has
    │   ├── BadVoxels               bad_voxels           no finite Hounsfield units
    │   ├── NotDicom                not_dicom            a DICOM output of what is not DICOM
    │   ├── ModelRefused            model_refused        a model that the store does not take in
    │   └── DicomError              a DICOM series that is no plain CT volume
    │       ├── SeveralSeries       several_series
    │       ├── SeriesNotFound      series_not_found
    │       ├── NotCT               not_ct
    │       ├── Localizer           localizer
    │       ├── SecondaryCapture    secondary_capture
    │       ├── ColourImage         colour_image
    │       ├── MissingRescale      missing_rescale
    │       ├── MissingPosition     missing_position
    │       ├── MissingSlices       missing_slices
    │       ├── DuplicateSlices     duplicate_slices
    │       ├── UnevenSlices        uneven_slices
    │       ├── GantryTilt          gantry_tilt
    │       └── MixedSlices         mixed_slices         size, spacing or orientation changes
    ├── BadParameter                bad_parameter        an argument outside its range
    ├── ModelError                  a model is at fault
    │   ├── ModelNotFound           model_not_found
    │   ├── BadManifest             bad_manifest
    │   └── CorruptModel            corrupt_model        the file is not what its manifest says
    ├── DataError                   bad_case             a training case is at fault
    ├── DeviceUnavailable           device_unavailable   the asked device is not on this machine
    ├── ServiceBusy                 busy                 the queue is full; worth trying again
    │   └── RecordsAway             records_away         the jobs' records cannot be reached
    ├── ServiceFailed               service_failed       a service that was started does not serve
    ├── FederationError             federation_error     hospitals that train together
    │   ├── JobFailed               job_failed           no further round can be made
    │   ├── MessageRefused          message_refused      bytes that are no message of this job
    │   ├── PolicyRefused           policy_refused       a site's policy does not allow the job
    │   └── UpdateRefused           update_refused       an update that must not join a round
    ├── JobError                    a job is not what the request takes it for
    │   ├── JobNotFound             job_not_found        no such job, or its result was cleaned up
    │   ├── JobUnfinished           job_unfinished       there is no result yet
    │   └── KeyReused               key_reused           an idempotency key of another request
    ├── WorkerLost                  worker_lost          every worker that took a job died over it
    ├── OutOfMemory                 out_of_memory        a job took more memory than there is
    ├── TimedOut                    timed_out            a job took longer than it may
    ├── DiskFull                    disk_full            there is no room to write
    ├── DiskReadOnly                disk_read_only       the disk may only be read
    ├── RecordsDamaged              records_damaged      the jobs' records cannot be made out
    ├── AccessError                 who asks may not
    │   ├── Unauthenticated         unauthenticated      no token, or none that is valid
    │   ├── Forbidden               forbidden            the token's roles do not allow it
    │   ├── ProviderAway            provider_away        the identity provider does not answer
    │   └── SlowBody                slow_body            the request's body stopped coming
    ├── PacsError                   pacs_error           the archive did not do what it was asked
    │   ├── ServerNotAllowed        server_not_allowed   no such server among those configured
    │   └── NoSuitableSeries        no_suitable_series   no series of the study passes the rules
    └── Cancelled                   cancelled            the caller went away or cancelled the job

No message carries a patient identifier: positions, sizes, UIDs of series and names of parameters
only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class IsletError(Exception):
    """Base of the tree.

    Args:
        message: one sentence or two: the offending value, then what to do.
        details: the same values for machines; must be JSON-serialisable.
    """

    code: ClassVar[str] = "islet_error"

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, Any] = details

    def as_dict(self) -> dict[str, Any]:
        """The error in the one shape that leaves the house: ``code``, ``message``, ``details``."""
        return {"code": self.code, "message": self.message, "details": dict(self.details)}


class InputError(IsletError):
    code = "bad_input"


class UnsupportedFormat(InputError):
    code = "unsupported_format"


class TruncatedFile(InputError):
    code = "truncated_file"


class EmptyInput(InputError):
    code = "empty_input"


class InputTooLarge(InputError):
    code = "input_too_large"


class UnsafeArchive(InputError):
    code = "unsafe_archive"


class BadShape(InputError):
    code = "bad_shape"


class BadGeometry(InputError):
    code = "bad_geometry"


class BadVoxels(InputError):
    code = "bad_voxels"


class NotDicom(InputError):
    code = "not_dicom"


class ModelRefused(InputError):
    code = "model_refused"


class DicomError(InputError):
    code = "bad_dicom"


class SeveralSeries(DicomError):
    code = "several_series"


class SeriesNotFound(DicomError):
    code = "series_not_found"


class NotCT(DicomError):
    code = "not_ct"


class Localizer(DicomError):
    code = "localizer"


class SecondaryCapture(DicomError):
    code = "secondary_capture"


class ColourImage(DicomError):
    code = "colour_image"


class MissingRescale(DicomError):
    code = "missing_rescale"


class MissingPosition(DicomError):
    code = "missing_position"


class MissingSlices(DicomError):
    code = "missing_slices"


class DuplicateSlices(DicomError):
    code = "duplicate_slices"


class UnevenSlices(DicomError):
    code = "uneven_slices"


class GantryTilt(DicomError):
    code = "gantry_tilt"


class MixedSlices(DicomError):
    code = "mixed_slices"


class BadParameter(IsletError):
    code = "bad_parameter"


class ModelError(IsletError):
    code = "bad_model"


class ModelNotFound(ModelError):
    code = "model_not_found"


class BadManifest(ModelError):
    code = "bad_manifest"


class CorruptModel(ModelError):
    code = "corrupt_model"


class DataError(IsletError):
    code = "bad_case"


class DeviceUnavailable(IsletError):
    code = "device_unavailable"


class ServiceBusy(IsletError):
    code = "busy"


class JobError(IsletError):
    code = "job_error"


class JobNotFound(JobError):
    code = "job_not_found"


class JobUnfinished(JobError):
    code = "job_unfinished"


class KeyReused(JobError):
    code = "key_reused"


class WorkerLost(IsletError):
    code = "worker_lost"


class OutOfMemory(IsletError):
    code = "out_of_memory"


class TimedOut(IsletError):
    code = "timed_out"


class DiskFull(IsletError):
    code = "disk_full"


class DiskReadOnly(IsletError):
    code = "disk_read_only"


class RecordsDamaged(IsletError):
    code = "records_damaged"


class AccessError(IsletError):
    code = "access_error"


class Unauthenticated(AccessError):
    code = "unauthenticated"


class Forbidden(AccessError):
    code = "forbidden"


class ProviderAway(AccessError):
    code = "provider_away"


class SlowBody(AccessError):
    code = "slow_body"


class PacsError(IsletError):
    code = "pacs_error"


class ServerNotAllowed(PacsError):
    code = "server_not_allowed"


class NoSuitableSeries(PacsError):
    code = "no_suitable_series"


class RecordsAway(ServiceBusy):
    code = "records_away"


class Cancelled(IsletError):
    code = "cancelled"


class ServiceFailed(IsletError):
    code = "service_failed"


class FederationError(IsletError):
    code = "federation_error"


class JobFailed(FederationError):
    code = "job_failed"


class MessageRefused(FederationError):
    code = "message_refused"


class PolicyRefused(FederationError):
    code = "policy_refused"


class UpdateRefused(FederationError):
    code = "update_refused"
