"""What Open WebUI, LiteLLM and Prometheus are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from provisioner.domain.fleet import FleetSpec
from provisioner.domain.names import ModeName, NodeName
from provisioner.domain.orchestrator import OrchestratorName
from provisioner.orchestrators.base import Deed, ItemState
from provisioner.services.events import ignore
from provisioner.services.mode_notes import note_mode
from provisioner.services.provisioning import Provisioning
from provisioner.services.registering import Registering, RegistrationReport
from tests.fakes.open_webui import KEY, URL, FakeOpenWebUi
from tests.fakes.world import FakeWorld
from tests.fleets import FLEET, fleet_from

TOKEN = "token-of-the-tests-0123456789"
SERVICE = "service: {tokens: {chat: {secret: env:CHAT_TOKEN, may: [route]}}}\n"
MODELS, TARGETS = Path("/etc/litellm/provisioner.yaml"), Path("/etc/prometheus/gpu.json")


class Site:
    """A fleet that names one orchestrator."""

    def __init__(self, folder: Path, world: FakeWorld, entry: str, service: str = SERVICE) -> None:
        self.fleet = fleet_from(folder, f"{FLEET}{service}orchestrators: {{{entry}}}\n")
        self.world = world
        self.world.secrets = {"env:CHAT_TOKEN": TOKEN, "env:KEY": KEY}

    def register(self, count: int = 2, *, force: bool = False) -> RegistrationReport:
        (report,) = Registering(self.fleet, self.world).register(tuple(self.fleet.nodes)[:count], force=force)
        return report


class TestOpenWebUi:
    @pytest.fixture
    def there(self) -> FakeOpenWebUi:
        return FakeOpenWebUi()

    @pytest.fixture
    def site(self, tmp_path: Path, world: FakeWorld, there: FakeOpenWebUi) -> Site:
        world.web = there  # type: ignore[assignment]
        return Site(tmp_path, world, f"open-webui: {{url: {URL}, api_key: env:KEY, token: chat}}")

    def test_our_gateway_is_added_and_the_others_stay(self, site: Site, there: FakeOpenWebUi) -> None:
        assert site.register().is_complete
        assert there.config["OPENAI_API_BASE_URLS"] == ["https://api.example.org/v1", "http://127.0.0.1:8700/v1"]
        assert there.config["OPENAI_API_KEYS"] == ["sk-somebody-elses", TOKEN]
        assert there.config["OPENAI_API_CONFIGS"]["0"] == {"enable": True, "prefix_id": "theirs"}
        assert there.config["OPENAI_API_CONFIGS"]["1"] == {"enable": True, "tags": [{"name": "provisioner"}]}
        site.register(0)
        assert there.config["OPENAI_API_BASE_URLS"] == ["https://api.example.org/v1"]
        assert there.config["OPENAI_API_CONFIGS"] == {"0": {"enable": True, "prefix_id": "theirs"}}

    def test_it_follows_a_new_address_and_a_new_token(self, site: Site, there: FakeOpenWebUi, tmp_path: Path) -> None:
        site.register()
        there.config["OPENAI_API_CONFIGS"]["1"]["prefix_id"] = "home"
        site.world.secrets["env:CHAT_TOKEN"] = "another-0123456789abcdef"
        entry = f"open-webui: {{url: {URL}, api_key: env:KEY, token: chat}}"
        moved = Site(tmp_path, site.world, entry, SERVICE.replace("{tokens", "{listen: '127.0.0.1:8701', tokens"))
        moved.world.secrets["env:CHAT_TOKEN"] = "another-0123456789abcdef"
        assert moved.register().items[0].deed is Deed.UPDATED
        assert there.config["OPENAI_API_BASE_URLS"][1:] == ["http://127.0.0.1:8701/v1"]
        assert there.config["OPENAI_API_KEYS"][1:] == ["another-0123456789abcdef"]
        assert there.config["OPENAI_API_CONFIGS"]["1"]["prefix_id"] == "home"

    def test_what_somebody_switched_off_stays_off(self, site: Site, there: FakeOpenWebUi) -> None:
        site.register()
        there.config["OPENAI_API_CONFIGS"]["1"]["enable"] = False
        report = site.register()
        assert (report.is_complete, report.items[0].state) == (True, ItemState.INACTIVE)
        assert site.register(force=True).items[0].state is ItemState.SAME

    def test_a_key_that_it_does_not_accept_is_told(self, site: Site) -> None:
        site.world.secrets["env:KEY"] = "revoked"
        report = site.register()
        assert report.error is not None
        assert "does not accept the API key" in report.error.summary


class TestLiteLlm:
    @pytest.fixture
    def site(self, tmp_path: Path, world: FakeWorld) -> Site:
        return Site(tmp_path, world, f"litellm: {{config_file: {MODELS}, token: chat}}")

    def test_it_gets_every_model_and_no_secret(self, site: Site) -> None:
        assert site.register().is_complete
        text = site.world.text_files.texts[MODELS]
        (model,) = yaml.safe_load(text)["model_list"]
        assert model["model_name"] == "gemma-2-2b-it.gguf"
        assert model["litellm_params"]["model"] == "openai/gemma-2-2b-it.gguf"
        assert model["litellm_params"]["api_base"] == "http://127.0.0.1:8700/v1"
        assert model["litellm_params"]["api_key"] == "os.environ/CHAT_TOKEN"
        assert TOKEN not in text
        site.register(0)
        assert yaml.safe_load(site.world.text_files.texts[MODELS]) == {"model_list": []}

    def test_what_somebody_edited_is_kept_until_it_is_forced(self, site: Site) -> None:
        site.register()
        site.world.text_files.texts[MODELS] += "# mine\n"
        report = site.register()
        assert (report.is_complete, report.items[0].state) == (True, ItemState.EDITED)
        assert site.world.text_files.texts[MODELS].endswith("# mine\n")
        assert site.register(force=True).items[0].deed is Deed.OVERWRITTEN
        assert "# mine" not in site.world.text_files.texts[MODELS]

    def test_what_somebody_edited_is_kept_also_when_the_last_node_goes(self, site: Site) -> None:
        site.world.text_files.texts[MODELS] = "model_list: [{model_name: mine}]\n"
        report = site.register(0)
        assert (report.items[0].state, report.items[0].deed) == (ItemState.EDITED, Deed.LEFT)
        assert site.world.text_files.texts[MODELS] == "model_list: [{model_name: mine}]\n"


class TestPrometheus:
    @pytest.fixture
    def site(self, tmp_path: Path, world: FakeWorld) -> Site:
        return Site(tmp_path, world, f"prometheus: {{targets_file: {TARGETS}}}")

    def test_it_scrapes_the_nodes_that_exist(self, site: Site) -> None:
        assert site.register().is_complete
        targets = json.loads(site.world.text_files.texts[TARGETS])
        assert [each["labels"]["gpu_node"] for each in targets] == ["llm-gpu-01", "llm-gpu-02"]
        site.register(1)
        assert len(json.loads(site.world.text_files.texts[TARGETS])) == 1
        site.register(0)
        assert site.world.text_files.texts[TARGETS] == "[]\n"

    def test_a_file_that_cannot_be_written_is_told_and_remembered(self, site: Site) -> None:
        site.world.text_files.trouble = "cannot write it: Permission denied"
        report = site.register()
        assert report.error is not None
        assert report.error.summary == "cannot tell Prometheus: cannot write it: Permission denied"
        assert site.world.registrations.of(OrchestratorName("prometheus")).failing_since is not None

    def test_a_node_is_scraped_where_the_engine_of_its_mode_listens(self, tmp_path: Path, world: FakeWorld) -> None:
        fleet = two_modes(tmp_path)
        node = fleet.nodes[NodeName("llm-gpu-01")]
        Provisioning(fleet, world).up(node, ignore)
        world.secrets = {"env:CHAT_TOKEN": TOKEN}
        registering = Registering(fleet, world)
        assert registering.register((node.name,))[0].is_complete
        assert [each["labels"]["mode"] for each in json.loads(world.text_files.texts[TARGETS])] == ["small"]
        note_mode(fleet, world, fleet.in_mode(node, ModeName("large")), waits=False)
        (found,) = registering.verify((node.name,))
        assert found.items[0].state is ItemState.OUTDATED
        registering.register((node.name,))
        (target,) = json.loads(world.text_files.texts[TARGETS])
        assert (target["labels"]["mode"], target["targets"]) == ("large", ["10.10.90.1:8000"])


def two_modes(folder: Path) -> FleetSpec:
    """Return a fleet whose first node has modes with two engines."""
    text = FLEET.replace("modes: [small], gateway", "modes: [small, large], gateway").replace(
        "engines:\n", "engines:\n  vllm: {version: 0.33.0}\n"
    )
    text = text.replace("modes:\n", "modes:\n  large: {engine: vllm, model: Qwen/Qwen2.5-7B-Instruct-AWQ}\n", 1)
    return fleet_from(folder, f"{text}{SERVICE}orchestrators: {{prometheus: {{targets_file: {TARGETS}}}}}\n")
