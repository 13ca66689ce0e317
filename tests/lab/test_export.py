"""`provisioner export ansible-inventory`: what by-hand plays need, and no secret."""

from __future__ import annotations

import shlex
from pathlib import Path

import yaml
from click.testing import CliRunner

from provisioner.adapters.ansible.variables import variables_text
from provisioner.cli.app import root
from provisioner.domain.fleet import SecretReference, SecretSource
from tests.lab.support import NODE, Site


def export(site: Site, folder: Path, *more: str, code: int = 0) -> list[str]:
    words = ["export", "ansible-inventory", str(folder), *more]
    result = CliRunner().invoke(root, words, env=site.environment, standalone_mode=False)
    assert (result.exit_code, result.exception) == (code, None) or code, result.output
    return result.stdout.splitlines()


def test_a_node_is_exported_with_its_host_key_and_the_variables_of_every_playbook(site: Site, tmp_path: Path) -> None:
    site.fleet().up(NODE)
    folder = tmp_path / "by hand"
    lines = export(site, folder, NODE)
    inventory = yaml.safe_load((folder / "inventory.yml").read_text())
    host = inventory["all"]["hosts"][NODE]
    (known_hosts,) = folder.glob("known_hosts*")
    assert str(known_hosts) in host["ansible_ssh_common_args"]
    assert "ssh-ed25519 AAAA" in known_hosts.read_text()
    assert Path(host["ansible_ssh_private_key_file"]).exists()
    words = shlex.split(lines[-1])
    variables = yaml.safe_load(Path(words[words.index("-e") + 1].removeprefix("@")).read_text())
    assert variables["engine_active"] == "small"
    assert [launch["unit"] for launch in variables["engine_launches"]] == ["small"]
    assert Path(words[-1]).name == "deploy-llama-cpp.yml"
    assert "PRIVATE KEY" not in "".join(path.read_text() for path in folder.rglob("*") if path.is_file())


def test_a_node_without_a_guest_is_left_out_and_said(site: Site, tmp_path: Path) -> None:
    words = ["export", "ansible-inventory", str(tmp_path / "out"), NODE]
    result = CliRunner().invoke(root, words, env=site.environment)
    assert result.exit_code == 1
    assert "host key is not known before its first boot" in result.stderr
    assert yaml.safe_load((tmp_path / "out/inventory.yml").read_text()) == {"all": {"hosts": {}}}


def test_secrets_are_looked_up_and_other_braces_are_left_alone() -> None:
    text = variables_text(
        {
            "secrets": {
                "HF_TOKEN": SecretReference(SecretSource.ENV, "HF_TOKEN"),
                "KEY": SecretReference(SecretSource.FILE, "/etc/it's"),
            },
            "argv": ("{folder}/x", "{{ not_ours }}", "{% if %}"),
        }
    )
    assert "HF_TOKEN: \"{{ lookup('ansible.builtin.env', 'HF_TOKEN') | trim }}\"" in text
    assert "lookup('ansible.builtin.file', '/etc/it\\\\'s') | trim" in text
    assert "- !unsafe '{{ not_ours }}'" in text
    assert "- !unsafe '{% if %}'" in text
    assert "- '{folder}/x'" in text
