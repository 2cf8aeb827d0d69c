"""Files that `morl generate` writes, and sweeps as they are typed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from morl.cli.generate import save, side_by_side
from morl.cli.main import main


def flat(red: int) -> Image.Image:
    return Image.new("RGB", (4, 3), (red, 0, 0))


def test_a_strip_shows_its_images_from_left_to_right():
    strip = np.asarray(side_by_side([flat(10), flat(20), flat(30)]))
    assert strip.shape == (3, 12, 3)
    assert strip[0, ::4, 0].tolist() == [10, 20, 30]


def test_a_png_remembers_how_it_was_made(tmp_path):
    image = flat(1)
    image.info["morl"] = json.dumps({"prompt": "étoile\u202e 👩‍👩‍👧", "seed": 3})
    save(image, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as written:
        assert json.loads(written.info["morl"])["prompt"].startswith("étoile")


def test_other_formats_are_written_too(tmp_path):
    for suffix in (".jpg", ".webp"):
        save(flat(1), tmp_path / f"a{suffix}")
        with Image.open(tmp_path / f"a{suffix}") as written:
            assert written.size == (4, 3)


@pytest.mark.parametrize("text", ["a:b", "a:b:1", "a:b:x", "a:b:3:4", ""])
def test_a_sweep_names_two_objectives_and_a_number_of_points(text, capsys):
    code = main(["generate", "nowhere", "--prompt", "x", "--sweep", text])
    assert code in (2, 3)
    assert "morl: error:" in capsys.readouterr().err


def test_a_run_that_is_not_there(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = main(["generate", "nowhere", "--prompt", "x"])
    assert code == 3
    assert "nowhere" in capsys.readouterr().err


def test_nothing_to_write_to_is_seen_before_loading(capsys, tmp_path):
    (tmp_path / "file").touch()
    out = str(tmp_path / "file" / "x.png")
    code = main(["generate", "nowhere", "--prompt", "x", "--out", out])
    assert code == 5
    assert "cannot be written" in capsys.readouterr().err
