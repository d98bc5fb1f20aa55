"""The two sides of the login phase (RFC 7143 6.3): requests and responses go through, session parameters come out.

First comes the security stage, where the initiator names itself and its target and both settle on AuthMethod=None; then
the operational stage, where the keys are settled; then the full feature phase. The initiator leads: it offers all it
has in one request a stage and asks to leave the stage with the T bit; the target may keep it by answering without.

A refusal is a fact, :class:`LoginRefused`, with the status of 11.13.5; a breach of the protocol raises.

Left out: authentication, discovery sessions, redirection to another portal, and sending text that needs more than one
PDU. Receiving such text, with its C bit, works.
"""

from enum import IntEnum
from typing import NamedTuple

from storage_backends.iscsi.login.keys import (
    KEYS,
    RFC_DEFAULTS,
    LoginOffer,
    Rule,
    SessionParameters,
    Value,
    parameters_of,
    pull_text,
    pull_value,
    push_text,
    push_value,
    result_of,
)
from storage_backends.iscsi.messages.pdus import LoginFlag, LoginRequest, LoginResponse
from storage_backends.iscsi.state import LOGIN_TRANSITIONS, LoginStage, serial_add
from storage_backends.wire import RemoteProtocolError

__all__ = ["LOGIN_DATA_LENGTH_MAX", "InitiatorLogin", "LoginRefused", "LoginStatus", "TargetLogin"]

LOGIN_DATA_LENGTH_MAX = 8192
"""Data segment of a login PDU: the default of MaxRecvDataSegmentLength (13.12) rules until the phase is over."""
_EXCHANGES_MAX = 16
_TEXT_SIZE_MAX = 64 * 1024
_CURRENT_STAGE_SHIFT = 2
_STAGE_MASK = 3
_INFORMATIVE = frozenset(
    {
        "AuthMethod",
        "InitiatorAlias",
        "InitiatorName",
        "SessionType",
        "TargetAddress",
        "TargetAlias",
        "TargetName",
        "TargetPortalGroupTag",
    }
)
"""Keys that are no operational values: names and declarations that get no answer."""


class LoginStatus(IntEnum):
    """Status class and detail of a refusal (11.13.5)."""

    TARGET_MOVED_TEMPORARILY = 0x0101
    TARGET_MOVED_PERMANENTLY = 0x0102
    INITIATOR_ERROR = 0x0200
    AUTHENTICATION_FAILURE = 0x0201
    AUTHORIZATION_FAILURE = 0x0202
    NOT_FOUND = 0x0203
    TARGET_REMOVED = 0x0204
    UNSUPPORTED_VERSION = 0x0205
    TOO_MANY_CONNECTIONS = 0x0206
    MISSING_PARAMETER = 0x0207
    CANNOT_INCLUDE_IN_SESSION = 0x0208
    SESSION_TYPE_NOT_SUPPORTED = 0x0209
    SESSION_DOES_NOT_EXIST = 0x020A
    INVALID_REQUEST_DURING_LOGIN = 0x020B
    TARGET_ERROR = 0x0300
    SERVICE_UNAVAILABLE = 0x0301
    OUT_OF_RESOURCES = 0x0302


class LoginRefused(NamedTuple):
    """The target said no."""

    status: int

    @property
    def reason(self) -> str:
        """What it said, in words."""
        known = self.status in LoginStatus.__members__.values()
        words = LoginStatus(self.status).name.lower().replace("_", " ") if known else "unknown"
        return f"login refused with status {self.status:#06x} ({words})"


def _stages(flags: int) -> tuple[int, int]:
    """Return the current and the next stage of a login PDU."""
    return flags >> _CURRENT_STAGE_SHIFT & _STAGE_MASK, flags & _STAGE_MASK


class InitiatorLogin:
    """The initiator's side of one login phase."""

    __slots__ = ("_cmdsn", "_isid", "_nr_exchanges", "_offer", "_results", "_stage", "_text", "_to_send")

    def __init__(self, offer: LoginOffer, *, initiator_name: str, target_name: str, isid: bytes, cmdsn: int) -> None:
        self._offer = offer
        self._isid = isid
        self._cmdsn = cmdsn
        self._stage = LoginStage.SECURITY_NEGOTIATION
        # invariant: the pairs the next request carries
        self._to_send = {
            "InitiatorName": initiator_name,
            "TargetName": target_name,
            "SessionType": "Normal",
            "AuthMethod": "None",
        }
        self._results: dict[str, Value] = {}
        self._text = b""
        self._nr_exchanges = 0

    def request(self, exp_statsn: int) -> LoginRequest:
        """Return the next request. It asks to leave its stage, for there is nothing else to settle in it."""
        data, self._to_send = push_text(self._to_send), {}
        flags = LoginFlag.TRANSIT | self._stage << _CURRENT_STAGE_SHIFT | LOGIN_TRANSITIONS[self._stage][0]
        return self._request(flags, exp_statsn, data)

    def receive(self, response: LoginResponse) -> LoginRequest | SessionParameters | LoginRefused:
        """Take a response; return the next request, or how the login ended."""
        if response.status_class:
            return LoginRefused(response.status_class << 8 | response.status_detail)
        stage, following = _stages(response.flags)
        if stage != self._stage:
            raise RemoteProtocolError(f"login response of stage {stage} in stage {self._stage}")
        self._nr_exchanges += 1
        if self._nr_exchanges > _EXCHANGES_MAX:
            raise RemoteProtocolError(f"login has not ended after {_EXCHANGES_MAX} exchanges")
        exp_statsn = serial_add(response.statsn)
        self._text += response.data
        if response.flags & LoginFlag.CONTINUE:
            return self._request(self._stage << _CURRENT_STAGE_SHIFT, exp_statsn, b"")
        text, self._text = self._text, b""
        for name, value in pull_text(text).items():
            self._take(name, value)
        if not response.flags & LoginFlag.TRANSIT:
            return self.request(exp_statsn)
        if following not in LOGIN_TRANSITIONS[self._stage][:1]:
            raise RemoteProtocolError(f"login response leads from stage {stage} to {following} unasked")
        self._stage = LoginStage(following)
        if self._stage is LoginStage.FULL_FEATURE_PHASE:
            return parameters_of(self._results, max_recv_data_length=self._offer.max_recv_data_length)
        self._to_send.update({name: push_value(getattr(self._offer, key.field)) for name, key in KEYS.items()})
        return self.request(exp_statsn)

    def _request(self, flags: int, exp_statsn: int, data: bytes) -> LoginRequest:
        return LoginRequest(flags=flags, isid=self._isid, itt=0, cmdsn=self._cmdsn, exp_statsn=exp_statsn, data=data)

    def _take(self, name: str, text: str) -> None:
        """Take one pair of a response."""
        if name == "AuthMethod" and text != "None":
            raise RemoteProtocolError(f"AuthMethod={text} was not offered")
        if text == "Reject":
            raise RemoteProtocolError(f"{name} was rejected")
        if name in KEYS and text not in ("NotUnderstood", "Irrelevant"):
            value = pull_value(name, text)
            offered = getattr(self._offer, KEYS[name].field)
            if result_of(name, offered, value) != value:
                raise RemoteProtocolError(f"{name}={text} cannot follow from the offer {push_value(offered)}")
            self._results[name] = value
        elif name not in KEYS and name not in _INFORMATIVE:
            self._to_send[name] = "NotUnderstood"


class TargetLogin:
    """The target's side of one login phase."""

    __slots__ = (
        "_declared",
        "_is_leading",
        "_offer",
        "_results",
        "_stage",
        "_target_name",
        "_text",
        "parameters",
        "refused",
        "statsn",
    )

    def __init__(self, offer: LoginOffer, *, target_name: str) -> None:
        self._offer = offer
        self._target_name = target_name
        self._stage: int | None = None
        self._is_leading = True
        self._declared = False
        self._results: dict[str, Value] = {}
        self._text = b""
        self.statsn = 0
        """Of the next response."""
        self.parameters: SessionParameters | None = None
        """Set once the phase is over."""
        self.refused: LoginStatus | None = None
        """Set once the initiator was sent away."""

    def receive(self, request: LoginRequest, *, tsih: int, max_cmdsn: int) -> LoginResponse:
        """Take a request and return its response, which may be a refusal."""
        stage, following = _stages(request.flags)
        transit = request.flags & LoginFlag.TRANSIT
        pairs: dict[str, str] = {}
        self.refused = self._check(request, stage, following)
        if self.refused is None:
            self._stage = stage
            self._text += request.data
            if not request.flags & LoginFlag.CONTINUE:
                text, self._text = self._text, b""
                pairs = self._answer(stage, pull_text(text))
        flags = stage << _CURRENT_STAGE_SHIFT
        if self.refused is not None:
            pairs = {}
        elif transit:
            flags |= LoginFlag.TRANSIT | following
            self._stage = following
            if following == LoginStage.FULL_FEATURE_PHASE:
                # an initiator that skipped the operational stage never heard our declaration
                declared = self._offer if self._declared else RFC_DEFAULTS
                self.parameters = parameters_of(self._results, max_recv_data_length=declared.max_recv_data_length)
        statsn, self.statsn = self.statsn, serial_add(self.statsn)
        status = 0 if self.refused is None else self.refused
        return LoginResponse(
            flags=flags,
            isid=request.isid,
            tsih=tsih if self.parameters else 0,
            itt=request.itt,
            statsn=statsn,
            exp_cmdsn=request.cmdsn,
            max_cmdsn=max_cmdsn,
            status_class=status >> 8,
            status_detail=status & 0xFF,
            data=push_text(pairs),
        )

    def _check(self, request: LoginRequest, stage: int, following: int) -> LoginStatus | None:
        """Return why a request's header is not acceptable."""
        if request.version_min:
            return LoginStatus.UNSUPPORTED_VERSION
        if request.tsih:
            return LoginStatus.SESSION_DOES_NOT_EXIST
        if self._stage not in (None, stage) or stage not in (0, 1):
            return LoginStatus.INVALID_REQUEST_DURING_LOGIN
        if request.flags & LoginFlag.TRANSIT and following not in LOGIN_TRANSITIONS[LoginStage(stage)]:
            return LoginStatus.INVALID_REQUEST_DURING_LOGIN
        if request.flags & LoginFlag.CONTINUE and request.flags & LoginFlag.TRANSIT:
            return LoginStatus.INVALID_REQUEST_DURING_LOGIN
        if len(self._text) + len(request.data) > _TEXT_SIZE_MAX:
            return LoginStatus.INVALID_REQUEST_DURING_LOGIN
        return None

    def _answer(self, stage: int, offered: dict[str, str]) -> dict[str, str]:
        """Return the answer to a whole text, or set why there is none."""
        answers: dict[str, str] = {}
        if self._is_leading:
            self._is_leading = False
            self.refused = self._refusal(offered)
            answers["TargetPortalGroupTag"] = "1"  # 13.9: in the first answer
        for name, text in offered.items():
            if name == "AuthMethod":
                if "None" not in text.split(","):
                    self.refused = LoginStatus.AUTHENTICATION_FAILURE
                answers[name] = "None"
            elif name in KEYS:
                answer = self._settle(name, pull_value(name, text))
                if answer is not None:
                    answers[name] = answer
            elif name not in _INFORMATIVE:
                answers[name] = "NotUnderstood"
        if stage == LoginStage.LOGIN_OPERATIONAL_NEGOTIATION and not self._declared:
            self._declared = True
            answers["MaxRecvDataSegmentLength"] = str(self._offer.max_recv_data_length)
        return answers

    def _refusal(self, offered: dict[str, str]) -> LoginStatus | None:
        """Return why these names are not served here (6.3.1)."""
        if "InitiatorName" not in offered:
            return LoginStatus.MISSING_PARAMETER
        if offered.get("SessionType", "Normal") != "Normal":
            return LoginStatus.SESSION_TYPE_NOT_SUPPORTED
        if "TargetName" not in offered:
            return LoginStatus.MISSING_PARAMETER
        return None if offered["TargetName"] == self._target_name else LoginStatus.NOT_FOUND

    def _settle(self, name: str, offered: Value) -> str | None:
        """Settle one key and return the answer; a declaration gets none."""
        result = result_of(name, offered, getattr(self._offer, KEYS[name].field))
        if KEYS[name].rule is Rule.DECLARATION:
            self._results[name] = offered
            return None
        if result is None:
            return "Reject"
        self._results[name] = result
        return push_value(result)
