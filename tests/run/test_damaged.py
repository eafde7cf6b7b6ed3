"""What is damaged goes aside."""

from fedjax_med.run import damaged


def test_what_is_put_aside_keeps_its_names_and_takes_no_other_s_place(tmp_path):
    for number in (1, 2):
        (tmp_path / "file").write_text(str(number))
        aside = damaged.put_aside(tmp_path, [tmp_path / "file"])
        assert aside == tmp_path / f"damaged-{number}"
        assert (aside / "file").read_text() == str(number)
        assert not (tmp_path / "file").exists()
