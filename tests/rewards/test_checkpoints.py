"""Where weights are looked for, and what is said where they are not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rewards.checkpoints import CHECKPOINTS, HEADS, CheckpointError, find
from rewards.encoder_settings import (
    EncoderSettings,
    EncoderSettingsError,
    configure,
    settings_of,
)
from rewards.facts_table import FACTS
from rewards.features import CMMD_ENCODER, INCEPTION
from rewards.licences import LicenceWarning, restriction, say


def complete(folder):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return folder


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    """No weights anywhere and no network."""
    monkeypatch.setenv("MORL_REWARDS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


class TestOrder:
    def test_a_named_folder_goes_first(self, tmp_path):
        complete(tmp_path / "home" / "hpsv2")
        own = complete(tmp_path / "own")
        assert find("hpsv2", str(own)) == own

    def test_then_the_folder_of_converted_weights(self, tmp_path):
        folder = complete(tmp_path / "home" / "clip_vit_l_14")
        assert find("clip_vit_l_14") == folder

    @pytest.mark.parametrize("absent", ["config.json", "model.safetensors"])
    def test_a_named_folder_that_lacks_a_file_is_refused(self, tmp_path, absent):
        own = complete(tmp_path / "own")
        (own / absent).unlink()
        with pytest.raises(CheckpointError, match=rf"own holds no {absent}"):
            find("hpsv2", str(own))


class TestAbsent:
    def test_offline_names_id_file_and_command(self, tmp_path):
        with pytest.raises(CheckpointError) as error:
            find("pickscore_v1")
        said = str(error.value)
        assert "\n" not in said
        for part in (
            "yuvalkirstain/PickScore_v1",
            "model.safetensors",
            str(tmp_path / "home" / "pickscore_v1"),
            "hf download yuvalkirstain/PickScore_v1 --revision a4e4367c",
        ):
            assert part in said

    def test_what_the_hub_has_as_a_pickle_is_converted(self):
        with pytest.raises(CheckpointError, match=r"morl rewards convert hpsv2_1 HPS_v2\.1_comp"):
            find("hpsv2_1")


class TestTables:
    def test_every_encoder_of_a_scorer_is_a_row(self):
        real = {f.encoder for f in FACTS.values() if f.source.startswith("rewards.scorers")}
        assert (real - {None}) | {CMMD_ENCODER, INCEPTION} == set(CHECKPOINTS)

    def test_revisions_are_commits(self):
        loose = {name for name, row in CHECKPOINTS.items() if len(row.revision) != 40}
        # Converted by the user from a file that no known commit holds.
        assert loose <= {"mps", "alexnet", "hpsv3", "inception_v3_fid", "llavaguard"}
        assert not any(CHECKPOINTS[name].on_hub for name in loose)

    def test_heads_are_rewards_under_the_same_licence(self):
        assert all(FACTS[name].licence == head.licence for name, head in HEADS.items())

    def test_listing_takes_no_torch(self):
        code = (
            "import sys, rewards.checkpoints, rewards.encoder_settings, rewards.scorers.facts;"
            "print([m for m in ('torch', 'numpy', 'transformers') if m in sys.modules])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "[]"


class TestSettings:
    @pytest.fixture(autouse=True)
    def fresh(self, monkeypatch):
        monkeypatch.setattr("rewards.encoder_settings._CHOSEN", {})

    def test_they_are_kept_by_name(self):
        chosen = EncoderSettings(device="cpu", micro_batch=4)
        configure("hpsv2", chosen)
        assert settings_of("hpsv2") == chosen
        assert settings_of("hpsv2_1") == EncoderSettings()

    @pytest.mark.parametrize(
        ("name", "settings", "said"),
        [
            ("hpsv4", {}, "nearest: 'hpsv3"),
            ("hpsv2", {"folder": "/no/such"}, "no folder on this machine"),
            ("hpsv2", {"micro_batch": 0}, "at least 1; got 0"),
            ("hpsv2", {"dtype": "half"}, "known: bfloat16, float16, float32"),
            ("hpsv2", {"pixels": "pil"}, "exact"),
        ],
    )
    def test_what_cannot_work_is_refused(self, unchecked, name, settings, said):
        with pytest.raises(EncoderSettingsError, match=said):
            configure(name, EncoderSettings(**settings))


class TestLicences:
    @pytest.mark.parametrize(
        ("licence", "said"),
        [
            ("MIT", ""),
            ("Apache-2.0", ""),
            ("CC-BY-NC-4.0", "non-commercial"),
            ("CC-BY-SA-4.0", "share alike"),
            ("AGPL-3.0", "network"),
            ("CreativeML-OpenRAIL-M", "restrictions"),
        ],
    )
    def test_what_binds(self, licence, said):
        assert said in restriction(licence)
        assert bool(restriction(licence)) == bool(said)

    def test_it_is_said_once(self, monkeypatch):
        monkeypatch.setattr("rewards.licences._SAID", set())
        with pytest.warns(LicenceWarning, match="'x' uses weights under CC-BY-NC-4.0") as said:
            say("x", "CC-BY-NC-4.0")
        assert len(said) == 1
        say("x", "CC-BY-NC-4.0")  # a second warning would be an error here
        say("y", "MIT")

    def test_nothing_that_we_ship_binds(self):
        assert all(not restriction(head.licence) for head in HEADS.values() if head.shipped)
