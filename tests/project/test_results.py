"""Test the page of results: a section is replaced, and the rest of the page stays."""

from results import write_section


def test_write_section_replaces_its_section_and_keeps_the_rest(tmp_path):
    page = tmp_path / "RESULTS.md"
    page.write_text("# Speed\n\nby hand\n")
    write_section("growth", "old\n", page)
    write_section("more", "other", page)
    write_section("growth", "new\n\nlines\n", page)
    assert page.read_text() == (
        "# Speed\n\nby hand\n\n"
        "<!-- growth -->\nnew\n\nlines\n<!-- /growth -->\n\n<!-- more -->\nother\n<!-- /more -->\n"
    )


def test_write_section_creates_a_missing_page(tmp_path):
    write_section("growth", "text", tmp_path / "RESULTS.md")
    assert (tmp_path / "RESULTS.md").read_text() == "<!-- growth -->\ntext\n<!-- /growth -->\n"
