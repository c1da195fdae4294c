"""The metadata dictionary: complete, checked by name, immutable."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from continuo.model import metadata as md
from continuo.model import presets
from continuo.system.paths import MODELS

PRESET_NAMES = presets.preset_names()


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_presets_saved_and_loaded_are_unchanged(name, tmp_path):
    made = presets.from_preset(name, {}, state="x.safetensors")
    path = tmp_path / "model.json"
    md.save(made, path)
    assert md.load(path) == made
    content = json.loads(path.read_text())
    assert set(content) == {"corpus", "representation", "architecture", "training", "sampling", "state"}
    assert content["training"]["checkpoint_every_s"] == 30


def bad(changes: dict, *, preset: str = "codec-lstm") -> str:
    with pytest.raises(ValueError) as caught:
        presets.from_preset(preset, changes, state="x.safetensors")
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("architecture.onset_memory", "long", "architecture.onset_memory must be a valid integer"),
        ("sampling.coarse_temperature", -1, "sampling.coarse_temperature"),
        ("sampling.fine_temperature", 1e300, "sampling.fine_temperature"),
        ("corpus.sample_rate_hz", -8000, "corpus.sample_rate_hz"),
        ("corpus.validation_share", 1.5, "corpus.validation_share"),
        ("training.batchsize", 3, "unknown key training.batchsize; did you mean 'training.batch_size'?"),
        ("training.learning_rate", float("nan"), "training.learning_rate"),
        ("training.learning_rate", "fast", "training.learning_rate"),
        ("training.minutes", 0, "training.minutes"),
        ("architecture.kind", "lstn", "architecture: Input tag 'lstn' found using 'kind' does not match"),
        ("representation.kind", "spectrogram", "does not match any of the expected tags: 'spectrum', 'codec'"),
        ("state", "../elsewhere.safetensors", "state: must be a file name in or below the folder"),
        ("state", "/etc/passwd", "state"),
        ("state", "take.wav", "must end in .safetensors"),
        ("state.deeper", 1, "--set state.deeper: there is no section state"),
        ("nonsense", 1, "unknown key nonsense"),
        ("representation.adaptation_steps", -1, "representation.adaptation_steps must be greater than or equal to 0"),
    ],
)
def test_validated_impossible_value_names_the_key(key, value, words):
    assert words in bad({key: value})


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("representation.hop", 0, "representation.hop"),
        ("representation.hop", 2000, "hop 2000 is more than half of n_fft 1536"),
        ("representation.n_fft", 1535, "n_fft must be even"),
    ],
)
def test_validated_window_that_leaves_gaps_is_refused(key, value, words):
    assert words in bad({key: value}, preset="spectral-lstm")


def test_load_bad_value_names_the_file_unless_an_override_caused_it(tmp_path):
    assert bad({"training.minutes": -4}) == "training.minutes must be greater than 0, not -4"
    assert "corpus.programs.1 must be less than or equal to 127, not 999" in bad({"corpus.programs": [3, 999]})
    path = tmp_path / "mine.json"
    md.save(presets.from_preset("codec-lstm", {}, state="x.safetensors"), path)
    path.write_text(path.read_text().replace('"minutes": 10.0', '"minutes": -1'))
    with pytest.raises(ValueError, match=r"^mine\.json: training\.minutes must be greater than 0, not -1$"):
        md.load(path, {"training.seed": 1})
    with pytest.raises(ValueError, match=r"^mine\.json: training\.minutes must .*; training\.seed must .*$"):
        md.load(path, {"training.seed": -1})


def test_validated_section_that_is_no_object_is_named():
    for section in ("sampling", "architecture"):
        assert re.fullmatch(rf"{section} must be a valid dictionary .*, not None", bad({section: None}))


def test_validated_unknown_key_without_a_similar_one_suggests_nothing():
    assert bad({"training.foo": 3}) == "unknown key training.foo"


def test_validated_key_of_another_section_suggests_that_section():
    for key in ("hop", "training.hop"):
        assert bad({key: 3}, preset="spectral-lstm") == f"unknown key {key}; did you mean 'representation.hop'?"


def test_load_of_a_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is a folder: name a metadata file"):
        md.load(tmp_path)


def test_training_without_a_budget_is_refused():
    assert "give a budget" in bad({"training.minutes": None})


def test_from_preset_misspelt_suggests_a_name():
    with pytest.raises(ValueError, match="did you mean 'codec-lstm'"):
        presets.from_preset("codc-lstm", {}, state="x.safetensors")


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": 1}', "null", '{"state": {}}', "\x00", "[" * 100_000])
def test_load_of_other_content_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "model.json"
    path.write_text(content)
    with pytest.raises(ValueError) as caught:
        md.load(path)
    assert "\n" not in str(caught.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=12),
        lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=12), x, max_size=4),
        max_leaves=12,
    )
)
def test_validated_any_other_json_is_a_value_error(content):
    with pytest.raises(ValueError):
        md.validated(content if isinstance(content, dict) else {"corpus": content}, {}, source="x")


def test_metadata_assignment_is_refused():
    made = presets.from_preset("codec-lstm", {}, state="x.safetensors")
    with pytest.raises(ValidationError):
        made.training.seed = 4  # type: ignore[misc]


def test_parse_assignments_takes_json_or_text():
    assert presets.parse_assignments(["a.b=1", "c=[1, 2]", "d=x=y", "e="]) == {
        "a.b": 1,
        "c": [1, 2],
        "d": "x=y",
        "e": "",
    }
    with pytest.raises(ValueError, match="KEY=VALUE"):
        presets.parse_assignments(["training.batch_size"])


def test_from_preset_with_another_corpus_keeps_the_programs_of_scores():
    assert presets.from_preset("codec-lstm", {}, state="x.safetensors").corpus.program == 0
    assert presets.from_preset("codec-lstm", {"corpus.path": "music"}, state="x.safetensors").corpus.program is None
    assert (
        presets.from_preset(
            "codec-lstm", {"corpus.path": "m", "corpus.program": 5}, state="x.safetensors"
        ).corpus.program
        == 5
    )


def test_from_preset_of_another_kind_keeps_the_keys_of_that_kind():
    made = presets.from_preset("codec-lstm", {"architecture.kind": "transformer"}, state="x.safetensors").architecture
    assert (made.kind, made.hidden, made.code_dropout) == ("transformer", 512, 0.5)
    assert not hasattr(made, "onset_memory")


def test_check_same_model_takes_the_default_for_a_key_that_the_state_lacks():
    """States from before a key was added can be resumed, unless the key is set."""
    ours = presets.from_preset("codec-lstm", {"architecture.onset_memory": 0}, state="x.safetensors")
    saved = ours.model_dump(mode="json")
    del saved["architecture"]["onset_memory"]
    md.check_same_model(ours, saved, MODELS / "x.safetensors")
    newer = presets.from_preset("codec-lstm", {}, state="x.safetensors")
    with pytest.raises(ValueError, match=r"architecture\.onset_memory = 0, now it is 128"):
        md.check_same_model(newer, saved, MODELS / "x.safetensors")


def test_check_same_model_names_the_key_that_differs():
    ours = presets.from_preset("spectral-lstm", {}, state="x.safetensors")
    theirs = ours.model_dump(mode="json")
    md.check_same_model(ours, theirs, MODELS / "x.safetensors")
    before = theirs | {"corpus": {k: v for k, v in theirs["corpus"].items() if k != "channels"}}
    md.check_same_model(ours, before, MODELS / "x.safetensors")  # a state of before stereo is mono
    for section, key, value in [
        ("representation", "hop", 256),
        ("architecture", "hidden", 8),
        ("corpus", "sample_rate_hz", 1),
        ("corpus", "channels", 2),
    ]:
        changed = theirs | {section: theirs[section] | {key: value}}
        with pytest.raises(ValueError, match=rf"{section}\.{key} = {value}"):
            md.check_same_model(ours, changed, MODELS / "x.safetensors")


def test_from_donor_keeps_the_sample_rate_and_the_channels():
    keys = {"corpus.sample_rate_hz": 16000, "corpus.channels": 2, "corpus.pieces": 3}
    donor = presets.from_preset("codec-lstm", keys, state="x.safetensors").model_dump(mode="json")
    corpus = presets.from_donor(donor, {}, state="y.safetensors").corpus
    assert (corpus.sample_rate_hz, corpus.channels, corpus.pieces) == (16000, 2, None)
