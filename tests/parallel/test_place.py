"""What a launcher's variables say, and what is refused of them."""

from __future__ import annotations

import pytest

from tinyllm.errors import ConfigError, InvalidInputError
from tinyllm.parallel.pipeline import listener_at, meeting_place, shared_token
from tinyllm.parallel.torchrun import Place, local_share, place_of, torchrun_place
from tinyllm.registry.registry import Registry
from tinyllm.settings.read import read_settings

SET = {"RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "first.example", "MASTER_PORT": "29500"}
DRAWN = "0f9a3c56-5a0c-4c4c-9a55-6c3b4d5e6f70"


def test_the_place_is_what_all_four_say() -> None:
    assert torchrun_place(SET | {"LOCAL_RANK": "0"}) == Place(1, 3, "first.example", 29500)
    assert torchrun_place({"LOCAL_RANK": "0", "PATH": "/bin"}) is None
    assert torchrun_place(dict.fromkeys(SET, "")) is None


@pytest.mark.parametrize("name", SET)
def test_one_alone_or_missing_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: expected a value, as .* have one: torchrun sets all of RANK"):
        torchrun_place({key: value for key, value in SET.items() if key != name})
    alone = {name: SET[name]}
    if name in ("RANK", "WORLD_SIZE"):
        with pytest.raises(ConfigError, match=f"expected a value, as {name} has one"):
            torchrun_place(alone)
    else:
        assert torchrun_place(alone) is None


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("RANK", "3", "from 0 to 2, got '3'"),
        ("RANK", "-1", "from 0 to 2"),
        ("RANK", "one", "from 0 to 2"),
        ("WORLD_SIZE", "0", "from 1 to"),
        ("WORLD_SIZE", "²", "from 1 to"),
        ("MASTER_PORT", "65536", "from 1 to 65535"),
        ("MASTER_PORT", "9" * 5000, "from 1 to 65535"),
    ],
)
def test_a_value_that_cannot_be_is_named(name: str, value: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: expected a number {expected}"):
        torchrun_place(SET | {name: value})


def test_the_share_of_a_machine_is_read_or_refused() -> None:
    assert local_share({}) == (0, 1) and local_share({"LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4"}) == (3, 4)
    with pytest.raises(ConfigError, match="LOCAL_RANK: expected a number from 0 to 1, got ''"):
        local_share({"LOCAL_WORLD_SIZE": "2"})


def test_another_number_than_the_launchers_is_told() -> None:
    assert place_of(SET, "tensor_parallel", 3) == torchrun_place(SET) and place_of({}, "tensor_parallel", 2) is None
    with pytest.raises(InvalidInputError, match="load: pipeline_parallel: expected 3, as WORLD_SIZE says, got 2"):
        place_of(SET, "pipeline_parallel", 2)


def test_stages_meet_at_the_port_after_the_launchers() -> None:
    assert meeting_place(Place(1, 3, "first.example", 29500)) == ("first.example", 29501)
    with pytest.raises(ConfigError, match="MASTER_PORT: expected one below 65535"):
        meeting_place(Place(0, 2, "first.example", 65535))


def test_other_machines_do_not_get_to_an_address_of_this_one_alone() -> None:
    """As a machine's own name is to itself, where its hosts file says so."""
    for here in ({}, {"LOCAL_WORLD_SIZE": "3"}):
        listener_at(("localhost", 0), SET | here).close()
    with pytest.raises(ConfigError, match=r"MASTER_ADDR: expected an address of .*, got localhost, which is (127|::1)"):
        listener_at(("localhost", 0), SET | {"LOCAL_WORLD_SIZE": "1"})


def test_the_token_is_the_setting_or_what_torchrun_has_drawn_for_one_machine() -> None:
    without = Registry(settings=read_settings(environ={}))
    own = Registry(settings=read_settings(environ={"TINYLLM_PIPELINE_TOKEN": "x" * 16}))
    short = Registry(settings=read_settings(environ={"TINYLLM_PIPELINE_TOKEN": "x" * 15}))
    one_machine = SET | {"LOCAL_WORLD_SIZE": "3", "TORCHELASTIC_RUN_ID": DRAWN}
    assert shared_token(without, one_machine) == DRAWN
    assert shared_token(own, one_machine) == shared_token(own, SET) == "x" * 16
    wanted = "pipeline_token: expected a text of at least 16 characters, the same for all processes .*, got"
    for environment in (SET, one_machine | {"LOCAL_WORLD_SIZE": "2"}, one_machine | {"TORCHELASTIC_RUN_ID": "456"}):
        with pytest.raises(ConfigError, match=f"{wanted} none"):
            shared_token(without, environment)
    with pytest.raises(ConfigError, match=f"{wanted} 15 characters"):
        shared_token(short, one_machine)
