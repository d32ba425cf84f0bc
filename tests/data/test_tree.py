"""What is found below a folder."""

from conformer_jax.data.tree import find


def names(paths, folder):
    return [path.relative_to(folder).as_posix() for path in paths]


def test_a_link_that_cannot_be_followed_is_a_file(tmp_path):
    (tmp_path / "a.wav").touch()
    (tmp_path / "long.wav").symlink_to("x" * 300)
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    (tmp_path / "gone.wav").symlink_to("nowhere")
    found = find(tmp_path)
    assert names(found.files, tmp_path) == ["a.wav", "gone.wav", "long.wav", "loop.wav"]


def test_of_links_to_one_folder_the_first_by_name_is_followed(tmp_path):
    folder, elsewhere = tmp_path / "sounds", tmp_path / "elsewhere"
    for name in (folder / "deep", elsewhere / "below"):
        name.mkdir(parents=True)
    (elsewhere / "below" / "1.wav").touch()
    for link in ("z", "b", "a", "deep/c"):  # as they are made, not as they are called
        (folder / link).symlink_to(elsewhere)
    (folder / "0").symlink_to(elsewhere / "below")
    found = find(folder)
    assert names(found.files, folder) == ["0/1.wav"]
    assert names(found.repeated, folder) == ["b", "deep/c", "z"]
