"""The metadata dictionary: complete, checked by name, immutable."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from continuo.model import metadata as md

PRESET_NAMES = sorted(path.stem for path in md.PRESETS.glob("*.json"))


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_presets_are_valid_and_survive_a_round_trip(name, tmp_path):
    made = md.from_preset(name, {}, state="x.safetensors")
    path = tmp_path / "model.json"
    md.save(made, path)
    assert md.load(path) == made
    content = json.loads(path.read_text())
    assert set(content) == {"corpus", "representation", "architecture", "training", "sampling", "state"}
    assert content["training"]["checkpoint_every_s"] == 30


def bad(changes: dict, *, preset: str = "codebook-lstm") -> str:
    with pytest.raises(ValueError) as caught:
        md.from_preset(preset, changes, state="x.safetensors")
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("representation.hop", 0, "representation.hop"),
        ("architecture.onset_memory", True, "architecture: onset_memory is true, which is neither a number nor a word"),
        ("sampling.coarse_temperature", -1, "sampling.coarse_temperature"),
        ("sampling.fine_temperature", 1e300, "sampling.fine_temperature"),
        ("representation.hop", 2000, "hop 2000 is more than half of n_fft 1536"),
        ("representation.n_fft", 1535, "n_fft must be even"),
        ("corpus.sample_rate_hz", -8000, "corpus.sample_rate_hz"),
        ("corpus.validation_share", 1.5, "corpus.validation_share"),
        ("training.batchsize", 3, "unknown key training.batchsize; did you mean 'training.batch_size'?"),
        ("training.learning_rate", float("nan"), "training.learning_rate"),
        ("training.learning_rate", "fast", "training.learning_rate"),
        ("training.minutes", 0, "training.minutes"),
        ("architecture.kind", "lstn", "architecture.kind"),
        (
            "representation.kind",
            "spectrogram",
            "there is no 'spectrogram', only 'spectrum', 'codebook'",
        ),
        ("representation.kind", "spectrm", "did you mean 'spectrum'?"),
        ("state", "../elsewhere.safetensors", "state"),
        ("state", "/etc/passwd", "state"),
        ("state", "take.wav", "must end in .safetensors"),
        ("state.deeper", 1, "no such section"),
        ("nonsense", 1, "unknown key nonsense"),
        ("representation.components", 5000, "components 5000 exceeds"),
    ],
)
def test_impossible_values_are_refused_by_name(key, value, words):
    assert words in bad({key: value})


def test_a_file_is_blamed_for_what_stands_in_it_and_not_for_what_was_asked_for(tmp_path):
    assert bad({"training.minutes": -4}) == "training.minutes: input should be greater than 0, not -4"
    assert bad({"corpus.programs": [3, 999]}).startswith("corpus.programs.1: input should be less than or equal to 127")
    assert bad({"representation.kind": "spectrm"}).startswith("representation.kind: there is no 'spectrm'")
    path = tmp_path / "mine.json"
    md.save(md.from_preset("codebook-lstm", {}, state="x.safetensors"), path)
    path.write_text(path.read_text().replace('"minutes": 10.0', '"minutes": -1'))
    with pytest.raises(ValueError, match=r"^mine\.json: training\.minutes: input should be greater than 0, not -1$"):
        md.load(path, {"training.seed": 1})
    with pytest.raises(ValueError, match=r"^mine\.json: training\.minutes: .*; training\.seed: .*$"):
        md.load(path, {"training.seed": -1})


def test_what_is_no_section_is_named_plainly():
    for section in ("sampling", "architecture"):
        assert bad({section: None}) == f"{section}: input should be an object, not null"


def test_nothing_far_is_suggested():
    assert bad({"training.foo": 3}) == "unknown key training.foo"


def test_a_folder_is_no_metadata(tmp_path):
    with pytest.raises(ValueError, match="is a folder: name a metadata file"):
        md.load(tmp_path)


def test_no_budget_is_refused():
    assert "give a budget" in bad({"training.minutes": None})


def test_a_misspelt_preset_gets_a_suggestion():
    with pytest.raises(ValueError, match="did you mean 'codebook-lstm'"):
        md.from_preset("codebok-lstm", {}, state="x.safetensors")


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": 1}', "null", '{"state": {}}', "\x00", "[" * 100_000])
def test_files_that_are_no_metadata_are_one_line(tmp_path, content):
    path = tmp_path / "model.json"
    path.write_text(content)
    with pytest.raises(ValueError) as caught:
        md.load(path)
    assert "\n" not in str(caught.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_json_is_either_metadata_or_a_value_error(content):
    with pytest.raises(ValueError):
        md.validated(content if isinstance(content, dict) else {"corpus": content}, {}, source="x")


def test_metadata_cannot_be_changed():
    made = md.from_preset("codebook-lstm", {}, state="x.safetensors")
    with pytest.raises(ValidationError):
        made.training.seed = 4  # type: ignore[misc]


def test_assignments():
    assert md.parse_assignments(["a.b=1", "c=[1, 2]", "d=x=y", "e="]) == {"a.b": 1, "c": [1, 2], "d": "x=y", "e": ""}
    with pytest.raises(ValueError, match="KEY=VALUE"):
        md.parse_assignments(["training.batch_size"])


def test_a_corpus_of_the_users_own_is_played_as_written():
    assert md.from_preset("codebook-lstm", {}, state="x.safetensors").corpus.program == 0
    assert md.from_preset("codebook-lstm", {"corpus.path": "music"}, state="x.safetensors").corpus.program is None
    assert (
        md.from_preset("codebook-lstm", {"corpus.path": "m", "corpus.program": 5}, state="x.safetensors").corpus.program
        == 5
    )


def test_of_a_section_of_another_kind_a_preset_keeps_what_that_kind_knows():
    made = md.from_preset("codebook-lstm", {"architecture.kind": "transformer"}, state="x.safetensors").architecture
    assert (made.kind, made.hidden, made.code_dropout) == ("transformer", 512, 0.5)
    assert not hasattr(made, "onset_memory")


def test_what_a_state_says_nothing_of_is_what_it_is_by_default():
    """States from before a key came go on, unless the key is set."""
    ours = md.from_preset("codebook-lstm", {"architecture.onset_memory": 0}, state="x.safetensors")
    saved = ours.model_dump(mode="json")
    del saved["architecture"]["onset_memory"]
    md.check_same_model(ours, saved, md.PRESETS / "x.safetensors")
    newer = md.from_preset("codebook-lstm", {}, state="x.safetensors")
    with pytest.raises(ValueError, match=r"architecture\.onset_memory = 0, now it is 128"):
        md.check_same_model(newer, saved, md.PRESETS / "x.safetensors")


def test_states_of_other_models_are_refused():
    ours = md.from_preset("codebook-lstm", {}, state="x.safetensors")
    theirs = ours.model_dump(mode="json")
    md.check_same_model(ours, theirs, md.PRESETS / "x.safetensors")
    for section, key, value in [
        ("representation", "hop", 256),
        ("architecture", "hidden", 8),
        ("corpus", "sample_rate_hz", 1),
    ]:
        changed = theirs | {section: theirs[section] | {key: value}}
        with pytest.raises(ValueError, match=rf"{section}\.{key} = {value}"):
            md.check_same_model(ours, changed, md.PRESETS / "x.safetensors")
