"""The login phase, each side against the other and against peers written out by hand."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_backends.iscsi.login.keys import LoginOffer, SessionParameters, pull_text, push_text
from storage_backends.iscsi.login.phase import InitiatorLogin, LoginRefused, LoginStatus, TargetLogin
from storage_backends.iscsi.messages.pdus import LoginFlag, LoginRequest, LoginResponse
from storage_backends.wire import RemoteProtocolError

ISID = bytes(6)
TO_OPERATIONAL = LoginFlag.TRANSIT | 0 << 2 | 1
TO_FULL_FEATURE = LoginFlag.TRANSIT | 1 << 2 | 3
NAMES = {"InitiatorName": "iqn.host", "TargetName": "iqn.swap", "SessionType": "Normal", "AuthMethod": "None"}

OFFERS = st.builds(
    LoginOffer,
    header_digest=st.sampled_from([("None",), ("CRC32C", "None"), ("None", "CRC32C")]),
    data_digest=st.sampled_from([("None",), ("CRC32C", "None"), ("None", "CRC32C")]),
    initial_r2t=st.booleans(),
    immediate_data=st.booleans(),
    max_recv_data_length=st.integers(512, 2**24 - 1),
    max_burst_length=st.integers(512, 2**24 - 1),
    first_burst_length=st.integers(512, 2**24 - 1),
    default_time2wait=st.integers(0, 3600),
    default_time2retain=st.integers(0, 3600),
    max_outstanding_r2t=st.integers(1, 65535),
)


def initiator(offer: LoginOffer | None = None) -> InitiatorLogin:
    """Return an initiator about to log in."""
    names = {"initiator_name": "iqn.host", "target_name": "iqn.swap"}
    return InitiatorLogin(offer or LoginOffer(), **names, isid=ISID, cmdsn=1)


def request(flags: int, pairs: dict[str, str] | None = None, **fields: int) -> LoginRequest:
    """Return a Login Request."""
    made = LoginRequest(flags=flags, isid=ISID, itt=0, cmdsn=1, exp_statsn=0, data=push_text(pairs or {}))
    return dataclasses.replace(made, **fields)  # type: ignore[arg-type]


def response(flags: int, pairs: dict[str, str] | None = None, statsn: int = 0) -> LoginResponse:
    """Return a Login Response."""
    return LoginResponse(
        flags=flags, isid=ISID, tsih=0, itt=0, statsn=statsn, exp_cmdsn=1, max_cmdsn=1, data=push_text(pairs or {})
    )


def answer(target: TargetLogin, sent: LoginRequest) -> LoginResponse:
    """Return the target's answer to a request."""
    return target.receive(sent, tsih=9, max_cmdsn=8)


@given(OFFERS, OFFERS)
def test_both_sides_end_with_the_same_session(ours: LoginOffer, theirs: LoginOffer) -> None:
    """Whatever the two offer, they agree on every value, each with its own view of who may send how much."""
    host, target = initiator(ours), TargetLogin(theirs, target_name="iqn.swap")
    outcome: object = host.request(0)
    while isinstance(outcome, LoginRequest):
        outcome = host.receive(answer(target, outcome))
    assert isinstance(outcome, SessionParameters)
    assert target.parameters is not None
    assert outcome.max_recv_data_length == ours.max_recv_data_length == target.parameters.max_xmit_data_length
    assert outcome.max_xmit_data_length == theirs.max_recv_data_length == target.parameters.max_recv_data_length
    swapped = dataclasses.replace(
        outcome,
        max_recv_data_length=outcome.max_xmit_data_length,
        max_xmit_data_length=outcome.max_recv_data_length,
    )
    assert swapped == target.parameters
    assert outcome.initial_r2t == (ours.initial_r2t or theirs.initial_r2t)
    assert outcome.max_burst_length == min(ours.max_burst_length, theirs.max_burst_length)
    assert outcome.first_burst_length <= outcome.max_burst_length


def test_the_initiator_leads_through_both_stages() -> None:
    """First come the names and AuthMethod=None, then every key, each request asking for the next stage."""
    host = initiator()
    first = host.request(0)
    assert first.flags == TO_OPERATIONAL
    assert first.immediate
    assert pull_text(first.data) == NAMES
    second = host.receive(response(TO_OPERATIONAL, {"TargetPortalGroupTag": "1", "AuthMethod": "None"}, statsn=7))
    assert isinstance(second, LoginRequest)
    assert second.flags == TO_FULL_FEATURE
    assert second.exp_statsn == 8
    assert pull_text(second.data)["MaxRecvDataSegmentLength"] == "262144"
    assert len(pull_text(second.data)) == 14
    assert isinstance(host.receive(response(TO_FULL_FEATURE, statsn=8)), SessionParameters)


def test_a_target_may_keep_the_stage() -> None:
    """A response without T is followed by an empty request that asks again."""
    host = initiator()
    host.request(0)
    again = host.receive(response(0, {"AuthMethod": "None"}, statsn=0))
    assert isinstance(again, LoginRequest)
    assert (again.flags, again.data, again.exp_statsn) == (TO_OPERATIONAL, b"", 1)


def test_a_text_in_several_pdus_is_one_text() -> None:
    """A response with C is answered by an empty request without T until the text is whole."""
    host = initiator()
    host.request(0)
    more = host.receive(dataclasses.replace(response(LoginFlag.CONTINUE), data=b"AuthMet"))
    assert isinstance(more, LoginRequest)
    assert (more.flags, more.data) == (0, b"")
    assert isinstance(host.receive(dataclasses.replace(response(TO_OPERATIONAL), data=b"hod=None\0")), LoginRequest)


def test_keys_unknown_here_are_not_understood() -> None:
    """A key of the target's that means nothing here gets that answer with the next request (6.2)."""
    host = initiator()
    host.request(0)
    again = host.receive(response(0, {"X-com.example.key": "1", "TargetAlias": "swap"}))
    assert isinstance(again, LoginRequest)
    assert pull_text(again.data) == {"X-com.example.key": "NotUnderstood"}


def test_keys_a_target_does_not_understand_keep_their_default() -> None:
    """NotUnderstood settles nothing."""
    host = initiator(LoginOffer(initial_r2t=False))
    host.request(0)
    host.receive(response(TO_OPERATIONAL))
    outcome = host.receive(response(TO_FULL_FEATURE, {"InitialR2T": "NotUnderstood"}))
    assert isinstance(outcome, SessionParameters)
    assert outcome.initial_r2t


@pytest.mark.parametrize(
    ("status_class", "status_detail", "reason"),
    [
        (2, 3, "login refused with status 0x0203 (not found)"),
        (3, 1, "login refused with status 0x0301 (service unavailable)"),
        (9, 9, "login refused with status 0x0909 (unknown)"),
    ],
)
def test_a_refusal_is_a_fact(status_class: int, status_detail: int, reason: str) -> None:
    """A status class is no breach of the protocol; it says in words what it means."""
    host = initiator()
    host.request(0)
    refusal = dataclasses.replace(response(0), status_class=status_class, status_detail=status_detail)
    outcome = host.receive(refusal)
    assert isinstance(outcome, LoginRefused)
    assert outcome.reason == reason


@pytest.mark.parametrize(
    ("flags", "pairs", "message"),
    [
        (1 << 2, {}, "login response of stage 1 in stage 0"),
        (LoginFlag.TRANSIT | 3, {}, "login response leads from stage 0 to 3 unasked"),
        (0, {"AuthMethod": "CHAP"}, "AuthMethod=CHAP was not offered"),
        (0, {"MaxBurstLength": "Reject"}, "MaxBurstLength was rejected"),
        (0, {"ImmediateData": "Maybe"}, "ImmediateData=Maybe is neither Yes nor No"),
        (0, {"MaxOutstandingR2T": "2"}, "MaxOutstandingR2T=2 cannot follow from the offer 1"),
        (0, {"DataDigest": "CRC32C"}, "DataDigest=CRC32C cannot follow from the offer None"),
    ],
)
def test_targets_that_break_the_rules_are_named(flags: int, pairs: dict[str, str], message: str) -> None:
    """A response out of stage, or a value the offer did not allow, is the target's fault."""
    host = initiator()
    host.request(0)
    with pytest.raises(RemoteProtocolError, match=message):
        host.receive(response(flags, pairs))


def test_a_login_that_does_not_end_is_given_up() -> None:
    """A target that keeps a stage for ever is left."""
    host = initiator()
    host.request(0)
    for statsn in range(16):
        host.receive(response(0, statsn=statsn))
    with pytest.raises(RemoteProtocolError, match="login has not ended after 16 exchanges"):
        host.receive(response(0, statsn=16))


def test_a_target_answers_each_stage() -> None:
    """The first answer names the portal group, the operational one settles each key and declares its own limit."""
    target = TargetLogin(LoginOffer(max_burst_length=4096, max_recv_data_length=1024), target_name="iqn.swap")
    first = answer(target, request(TO_OPERATIONAL, NAMES))
    assert (first.flags, first.tsih, first.statsn, first.exp_cmdsn, first.max_cmdsn) == (TO_OPERATIONAL, 0, 0, 1, 8)
    assert pull_text(first.data) == {"TargetPortalGroupTag": "1", "AuthMethod": "None"}
    offered = {"MaxBurstLength": "8192", "MaxRecvDataSegmentLength": "512", "IFMarker": "No"}
    second = answer(target, request(TO_FULL_FEATURE, offered))
    assert (second.flags, second.tsih, second.statsn) == (TO_FULL_FEATURE, 9, 1)
    assert pull_text(second.data) == {
        "MaxBurstLength": "4096",
        "IFMarker": "NotUnderstood",
        "MaxRecvDataSegmentLength": "1024",
    }
    assert target.parameters is not None
    assert (target.parameters.max_xmit_data_length, target.parameters.max_burst_length) == (512, 4096)


def test_an_initiator_may_skip_a_stage() -> None:
    """Security may be skipped, and so may the operational stage: then the RFC's defaults rule."""
    target = TargetLogin(LoginOffer(), target_name="iqn.swap")
    assert answer(target, request(TO_FULL_FEATURE, NAMES)).flags == TO_FULL_FEATURE
    target = TargetLogin(LoginOffer(), target_name="iqn.swap")
    answer(target, request(LoginFlag.TRANSIT | 3, NAMES))
    assert target.parameters is not None
    assert target.parameters.max_recv_data_length == 8192


def test_a_request_in_several_pdus_is_one_text() -> None:
    """A request with C gets an empty answer until the text is whole."""
    target = TargetLogin(LoginOffer(), target_name="iqn.swap")
    text = push_text(NAMES)
    first = answer(target, dataclasses.replace(request(LoginFlag.CONTINUE), data=text[:30]))
    assert (first.flags, first.data, first.status_class) == (0, b"", 0)
    assert answer(target, dataclasses.replace(request(TO_OPERATIONAL), data=text[30:])).flags == TO_OPERATIONAL


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request(TO_OPERATIONAL, NAMES, version_min=1), LoginStatus.UNSUPPORTED_VERSION),
        (request(TO_OPERATIONAL, NAMES, tsih=5), LoginStatus.SESSION_DOES_NOT_EXIST),
        (request(TO_OPERATIONAL, {"TargetName": "iqn.swap"}), LoginStatus.MISSING_PARAMETER),
        (request(TO_OPERATIONAL, {"InitiatorName": "iqn.host"}), LoginStatus.MISSING_PARAMETER),
        (request(TO_OPERATIONAL, NAMES | {"TargetName": "iqn.other"}), LoginStatus.NOT_FOUND),
        (request(TO_OPERATIONAL, NAMES | {"SessionType": "Discovery"}), LoginStatus.SESSION_TYPE_NOT_SUPPORTED),
        (request(TO_OPERATIONAL, NAMES | {"AuthMethod": "CHAP"}), LoginStatus.AUTHENTICATION_FAILURE),
        (request(LoginFlag.TRANSIT | 2 << 2 | 3, NAMES), LoginStatus.INVALID_REQUEST_DURING_LOGIN),
        (request(LoginFlag.TRANSIT | 0, NAMES), LoginStatus.INVALID_REQUEST_DURING_LOGIN),
        (request(LoginFlag.CONTINUE | TO_OPERATIONAL, NAMES), LoginStatus.INVALID_REQUEST_DURING_LOGIN),
    ],
)
def test_initiators_that_cannot_be_served_are_refused(sent: LoginRequest, status: LoginStatus) -> None:
    """Each refusal has the status of 11.13.5 and grants nothing."""
    target = TargetLogin(LoginOffer(), target_name="iqn.swap")
    refusal = answer(target, sent)
    assert refusal.status_class << 8 | refusal.status_detail == status == target.refused
    assert (refusal.data, refusal.flags & LoginFlag.TRANSIT, target.parameters) == (b"", 0, None)
    assert LoginRefused(status).reason.startswith(f"login refused with status {status:#06x}")


def test_text_without_end_is_refused() -> None:
    """An initiator that goes on and on is sent away, a target that does is left."""
    target = TargetLogin(LoginOffer(), target_name="iqn.swap")
    part = dataclasses.replace(request(LoginFlag.CONTINUE), data=bytes(8192))
    for _ in range(8):
        answer(target, part)
    assert target.refused is None
    answer(target, part)
    assert target.refused is LoginStatus.INVALID_REQUEST_DURING_LOGIN


def test_digests_without_agreement_are_rejected() -> None:
    """Two lists with nothing in common settle nothing."""
    target = TargetLogin(LoginOffer(), target_name="iqn.swap")
    refusal = answer(target, request(TO_FULL_FEATURE, NAMES | {"HeaderDigest": "CRC32C"}))
    assert pull_text(refusal.data)["HeaderDigest"] == "Reject"
