"""Parameters against declarations: what is refused, and in which words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.lab.refusals import Refusal
from provisioner.lab.schema.endpoints import endpoints
from provisioner.lab.schema.language import Param, ParamTable, flag, many, pieces, required, text, whole
from provisioner.lab.schema.property_strings import AGENT, NET
from provisioner.lab.schema.validate import Schema

TABLE = ParamTable(
    (
        required(whole("vmid", 100, 999999999, format="pve-vmid")),
        flag("onboot"),
        flag("force", requires="archive"),
        text("archive"),
        many("map", text("map", pattern=r"[a-z]+")),
        text("tags", format="pve-tag-list"),
        pieces("net[n]", NET, count=2),
        pieces("agent", AGENT),
        text("note", max_length=3),
    )
)


def verify(**params: object) -> dict[str, object]:
    return dict(
        Schema(9).verify({"vmid": "100", **{key.replace("_", "-"): value for key, value in params.items()}}, TABLE)
    )


def errors(**params: object) -> dict[str, str]:
    with pytest.raises(Refusal) as refusal:
        verify(**params)
    assert refusal.value.status == 400
    assert refusal.value.message == "Parameter verification failed."
    return refusal.value.errors or {}


@pytest.mark.parametrize("value", ["True", "true", "on", "yes", "2", ""])
def test_a_boolean_is_one_or_zero(value: str) -> None:
    assert errors(onboot=value) == {"onboot": f"type check ('boolean') failed - got '{value}'"}


@pytest.mark.parametrize(("value", "meant"), [("1", True), ("0", False), (True, True)])
def test_booleans_that_pass_are_python_booleans(value: object, meant: bool) -> None:
    assert verify(onboot=value)["onboot"] is meant


@pytest.mark.parametrize("value", ["1", "on", "yes", "TRUE"])
def test_inside_a_property_string_booleans_may_be_words(value: str) -> None:
    assert verify(agent=f"enabled={value}")["agent"] == f"enabled={value}"


def test_every_problem_is_reported_at_once() -> None:
    assert set(errors(onboot="x", nonsense="1", note="long")) == {"onboot", "nonsense", "note"}


def test_a_missing_required_parameter_is_named() -> None:
    with pytest.raises(Refusal) as refusal:
        Schema(9).verify({}, TABLE)
    assert refusal.value.errors == {"vmid": "property is missing and it is not optional"}


def test_one_parameter_may_require_another() -> None:
    assert errors(force="1") == {"archive": "missing property - 'force' requires this property"}


def test_array_elements_are_checked_by_number() -> None:
    assert verify(map=["a", "b"])["map"] == ["a", "b"]
    assert errors(map=["a", "1"]) == {"map[1]": "value does not match the regex pattern"}
    assert errors(map="a") == {"map": "type check ('array') failed"}


def test_a_list_for_a_plain_parameter_is_refused() -> None:
    assert errors(note=["a", "b"]) == {"note": "type check ('string') failed - got ARRAY"}


def test_numbered_keys_end_at_their_count() -> None:
    assert "net1" in verify(net1="virtio,bridge=vmbr0")
    assert set(errors(net2="virtio,bridge=vmbr0")) == {"net2"}
    assert set(errors(net01="virtio")) == {"net01"}


def test_a_model_with_an_address_is_short_for_both() -> None:
    parts = Schema(9).split(NET, "virtio=BC:24:11:00:00:01,bridge=vmbr0", "net0")
    assert parts == {"model": "virtio", "macaddr": "BC:24:11:00:00:01", "bridge": "vmbr0"}


def test_sub_keys_that_nobody_knows_are_named_with_their_path() -> None:
    message = errors(net0="virtio,speed=10")["net0"]
    assert message.startswith("invalid format - format error\nnet0.speed: property is not defined in schema")


def test_options_of_the_other_version_do_not_exist() -> None:
    path = ("POST", "/nodes/{node}/qemu")
    assert endpoints(8)[path].params.find("intel-tdx") is None
    assert endpoints(9)[path].params.find("intel-tdx") is not None


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=5))
def test_no_input_breaks_the_check(params: dict[str, str]) -> None:
    table = endpoints(9)["POST", "/nodes/{node}/qemu"].params
    with pytest.raises(Refusal):
        Schema(9).verify({**params, "vmid": "no"}, table)


@given(st.text(max_size=40))
def test_no_text_breaks_a_property_string(value: str) -> None:
    schema, table = Schema(9), endpoints(9)["POST", "/nodes/{node}/qemu"].params
    for key in ("net0", "scsi0", "hostpci0", "cpu", "boot", "ipconfig0"):
        try:
            schema.verify({"node": "pve1", "vmid": "100", key: value}, table)
            named = {key}
        except Refusal as refusal:
            named = set(refusal.errors or {})
        assert named == {key}


def test_a_required_numbered_option_does_not_exist() -> None:
    assert all(param.optional for param in TABLE.by_name.values() if param.count)
    assert Param("x").optional
