"""Restores and prefetches as the REST API tells them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from raypacs.web.models.base import Answer, Request


class OrderRestore(Request):
    """A study to bring back from a library."""

    study_uid: str = Field(description="Study Instance UID", min_length=1, max_length=64)
    priority: Literal["low", "medium", "high", "stat"] = Field(
        "stat", description="stat: somebody waits for it"
    )


class OrderPrefetch(Request):
    """A study to have in the caches, or a patient whose study is to come."""

    study_uid: str = Field("", description="Study Instance UID: this very study", max_length=64)
    patient_id: str = Field("", description="Patient ID: relevant priors of it", max_length=64)
    modality: str = Field("", description="Modality of the study that is to come", max_length=64)
    body_part: str = Field(
        "", description="Body Part Examined of the study that is to come", max_length=64
    )
    priority: Literal["low", "medium", "high", "stat"] = Field(
        "medium", description="Of one study; priors have their rule's"
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> OrderPrefetch:
        if bool(self.study_uid) == bool(self.patient_id):
            raise ValueError("study_uid or patient_id: one of both")
        return self


class RestoreProgress(Answer):
    """How far a restore is."""

    instances: int = Field(0, description="Instances that are brought back")
    size_bytes: int = Field(0, description="Their bytes")
    done_instances: int = Field(0, description="Instances that are back")
    done_bytes: int = Field(0, description="Bytes that are back")
    percent: float = Field(0.0, description="Of the bytes")


class Restore(Answer):
    """A study on its way back from a library; ``item_id`` 0: nothing is to be done, or can be."""

    item_id: int = Field(description="Number of its work item, 0: there is none")
    study_uid: str = Field(description="Study Instance UID")
    kind: str = Field("RESTORE", description="RESTORE, or PREFETCH")
    state: str = Field(
        description="State of the work item; online: it is there, nowhere: no library has it, "
        "failed: a moment ago"
    )
    error: str = Field("", description="Why it is not back, or what an operator should read")
    priority: int = Field(0, description="30 stat, 20 high, 10 medium, 0 low")
    node: str = Field("", description="Node that does it, or did")
    created_s: float = Field(0.0, description="When it was ordered")
    finished_s: float = Field(0.0, description="When it ended; 0: it has not")
    progress: RestoreProgress = Field(description="How far it is, or was at last")


class Prefetched(Answer):
    """A study that is brought into the caches."""

    study_uid: str = Field(description="Study Instance UID")
    rule: str = Field("", description="Prefetch rule that chose it; '' somebody named it")
    item_id: int = Field(description="Number of its work item, 0: there is none")
    state: str = Field(description="As of a restore")
    error: str = Field("", description="Why nothing can be done")
