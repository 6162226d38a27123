"""From a pack to batches: what an epoch is made of, and how contexts are cut, spliced, reversed and shortened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from speechrnn.audio import from_int16, to_int16
from speechrnn.config import UnknownSource
from speechrnn.data.clips import Clip, ClipKind, Int16, Pack, Source, Split, word_extent
from speechrnn.data.cutting import Batch, PlannedContext, WordSegment, ending, splice, take_part
from speechrnn.data.examples import ClipsByClass, Examples, validation_set
from speechrnn.errors import DataError
from speechrnn.labels import FOLDER_LABELS, Labels
from speechrnn.spec import Spec
from tests import made_data

SPEC = Spec(labels=Labels(("yes", "no")))
CONTEXT = SPEC.context_samples


def examples(pack: Pack, split: Split = "training", spec: Spec = SPEC, **data: Any) -> Examples:
    return Examples(pack, spec, made_data.settings(**data), split)


def equal(one: Batch, other: Batch) -> bool:
    pairs: Iterable[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = zip(one, other, strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


# Epochs and batches


@pytest.mark.parametrize(("unknown", "silence"), [(0.1, 0.1), (0.25, 0.08), (0.6, 0.0), (0.0, 0.3)])
def test_an_epoch_holds_every_keyword_clip_once_and_the_others_in_their_fractions(
    made_pack: Pack, unknown: float, silence: float
) -> None:
    training = examples(made_pack, unknown_fraction=unknown, silence_fraction=silence)
    plan = training.epoch(np.random.default_rng(0))
    keywords = Counter(clip.path for label, clip, *_ in plan if clip is not None and label < 2)
    assert keywords == dict.fromkeys(
        (c.path for c in made_pack.clips if c.kind == "command" and c.split == "training" and c.word in ("yes", "no")),
        1,
    )
    counts = Counter(label for label, *_ in plan)
    assert counts[2] / len(plan) == pytest.approx(unknown, abs=1 / len(plan))
    assert counts[3] / len(plan) == pytest.approx(silence, abs=1 / len(plan))
    assert all((clip is None) == (label == 3) for label, clip, *_ in plan)


@pytest.mark.parametrize(
    ("unknown", "silence", "names"),
    [(True, False, ("yes", "no", "unknown")), (False, True, ("yes", "no", "silence")), (False, False, ("yes", "no"))],
)
def test_a_model_without_a_role_has_no_examples_of_it(
    made_pack: Pack, unknown: bool, silence: bool, names: tuple[str, ...]
) -> None:
    spec = Spec(labels=Labels(("yes", "no"), unknown=unknown, silence=silence))
    training = examples(made_pack, spec=spec, unknown_fraction=0.2, silence_fraction=0.2)
    plan = training.epoch(np.random.default_rng(0))
    assert training.clips.names == names
    assert {label for label, *_ in plan} == set(range(len(names)))
    n_others = sum(label >= 2 for label, *_ in plan)
    assert n_others / len(plan) == pytest.approx(0.2 * (len(names) - 2), abs=1 / len(plan))


def test_every_label_is_the_word_of_its_clip(made_pack: Pack) -> None:
    plan = examples(made_pack, unknown_fraction=0.4).epoch(np.random.default_rng(0))
    names = SPEC.labels.names
    for label, clip, *_ in plan:
        if clip is not None:
            assert names[label] == (clip.word if clip.word in ("yes", "no") else "unknown")
            assert clip.split == "training"
    assert {clip.kind for label, clip, *_ in plan if clip is not None and names[label] == "unknown"} == {
        "command",
        "word",
        "speech",
    }


def test_each_keyword_and_each_clip_of_a_source_comes_equally_often(made_pack: Pack) -> None:
    rare = [c for c in made_pack.clips if c.word != "no" or c.split != "training"]
    rare += [c for c in made_pack.clips if c.word == "no" and c.split == "training"][:5]
    training = examples(Pack(rare, made_pack.samples, []), unknown_fraction=0.6, unknown_mix={"word": 1})
    plan = training.epoch(np.random.default_rng(0))
    n_of = Counter(planned.label for planned in plan)
    assert n_of[0] == n_of[1] == (24 + 5) // 2
    for label in (1, 2):
        uses = Counter(planned.clip for planned in plan if planned.label == label).values()
        assert max(uses) - min(uses) <= 1


def test_keywords_in_natural_voices_make_up_their_fraction(made_pack: Pack) -> None:
    recorded = [clip for clip in made_pack.clips if clip.word == "yes" and clip.split == "training"]
    natural = [clip.labelled("natural") for clip in recorded[:3]]
    training = examples(made_pack._replace(clips=made_pack.clips + natural), natural_fraction=0.25)
    plan = [planned.clip for planned in training.epoch(np.random.default_rng(0)) if planned.label == 0]
    assert sum(clip in natural for clip in plan) == len(plan) // 4
    no = [planned.clip for planned in training.epoch(np.random.default_rng(0)) if planned.label == 1]
    assert {clip.kind for clip in no if clip} == {"command"}


def test_batches_number_the_words_of_which_there_are_clips_enough(made_pack: Pack) -> None:
    training = examples(made_pack, unknown_fraction=0.6, unknown_mix={"word": 1, "speech": 1, "reversed": 1})
    plan = training.epoch(np.random.default_rng(0))
    assert set(training.batch(plan, 0).words) == {-1}
    counts = Counter(c.word for c in made_pack.clips if c.split == "training" and c.kind in ("command", "word"))
    common = sorted(word for word, n in counts.items() if n >= counts["yes"])
    assert training.set_vocabulary(counts["yes"]) == len(common)
    for planned, number in zip(plan, training.batch(plan, 0).words, strict=True):
        is_word = planned.clip is not None and planned.how == "whole" and planned.clip.kind != "speech"
        known = planned.clip is not None and is_word and planned.clip.word in common
        assert number == (common.index(planned.clip.word) if planned.clip and known else -1)


def test_unknown_is_mixed_as_configured_of_the_sources_that_are_there(made_pack: Pack) -> None:
    mix: dict[UnknownSource, float] = {
        "command": 1,
        "word": 2,
        "tts": 5,
        "speech": 1,
        "splice": 3,
        "reversed": 2,
        "part": 1,
    }
    plan = examples(made_pack, unknown_fraction=0.8, unknown_mix=mix).epoch(np.random.default_rng(0))
    unknown = [planned for planned in plan if planned.label == 2]
    found: Counter[str] = Counter(p.how if p.how != "whole" else p.clip.kind for p in unknown if p.clip is not None)
    for source, weight in mix.items():
        fraction = 0.0 if source == "tts" else weight / 10  # no such clips: the others get its part
        assert found[source] / len(unknown) == pytest.approx(fraction, abs=2 / len(unknown)), source


def test_mined_stretches_are_unknown_in_their_fraction_and_nothing_is_spliced_of_them(made_pack: Pack) -> None:
    speech = next(clip for clip in made_pack.clips if clip.kind == "speech")
    mined = speech.part(0, 20000).labelled("hard_negative")
    pack = made_pack._replace(clips=[*made_pack.clips, mined])
    training = examples(pack, unknown_fraction=0.5, unknown_mix={"hard_negative": 1.0, "splice": 3.0})
    plan = [planned for planned in training.epoch(np.random.default_rng(0)) if planned.label == 2]
    whole = [planned for planned in plan if planned.how == "whole"]
    assert len(whole) == pytest.approx(len(plan) / 4, abs=1)
    assert all(planned.clip == mined for planned in whole)
    assert all(mined not in (planned.clip, planned.other) for planned in plan if planned.how == "splice")
    assert not examples(pack, "validation").clips.counts().get("unknown, hard_negative")


def test_a_word_cut_from_speech_is_an_unknown_word_alone_that_fades_in_and_out(made_pack: Pack) -> None:
    speech = next(clip for clip in made_pack.clips if clip.kind == "speech")
    cut = speech.part(0, 6000).labelled("aligned", "the")
    pack = made_pack._replace(clips=[*made_pack.clips, cut])
    training = examples(pack, unknown_fraction=0.5, unknown_mix={"aligned": 1.0})
    plan = [planned for planned in training.epoch(np.random.default_rng(0)) if planned.label == 2]
    assert {planned.clip for planned in plan} == {cut}
    batch = training.batch(plan[:1], seed=0)
    original = pack.samples[cut.offset : cut.offset + 6000]
    start, end = batch.word_start[0], batch.word_end[0]
    word = batch.samples[0, start:end]
    assert end - start == 6000
    assert word[0] == word[-1] == 0
    assert np.array_equal(word[160:-160], original[160:-160])
    assert not batch.samples[0, :start].any()
    assert not batch.samples[0, end:].any()


def test_words_held_out_are_in_validation_alone_and_marked_there(made_pack: Pack) -> None:
    held_out = ("bed", "wow")
    training = examples(made_pack, unknown_fraction=0.8, held_out=held_out, unknown_mix={"word": 1, "splice": 1})
    used = {p.clip.word for p in training.epoch(np.random.default_rng(0)) if p.clip}
    used |= {p.other.word for p in training.epoch(np.random.default_rng(0)) if p.other}
    assert used == {"yes", "no", "cat", "zero"}
    validation = validation_set(examples(made_pack, "validation", held_out=held_out), held_out)
    clips = [c for c in made_pack.clips if c.split == "validation" and c.kind in ("command", "word")]
    assert validation.is_held_out.sum() == sum(c.word in held_out for c in clips) > 0
    assert (validation.batch.labels[validation.is_held_out] == 2).all()


def test_a_spoken_keyword_is_one_and_other_spoken_words_are_unknown(made_pack: Pack) -> None:
    clips = [c.labelled("tts") if c.kind == "word" else c for c in made_pack.clips]
    spec = Spec(labels=Labels(("yes", "no", "cat")))
    training = examples(Pack(clips, made_pack.samples, []), spec=spec, unknown_mix={"tts": 1}, unknown_fraction=0.5)
    words = {(p.label, p.clip.word) for p in training.epoch(np.random.default_rng(0)) if p.clip}
    assert words == {(0, "yes"), (1, "no"), (2, "cat"), (3, "wow"), (3, "zero")}


def test_the_digest_tells_any_change_of_the_clips(made_pack: Pack) -> None:
    def digest(clips: list[Clip]) -> str:
        return examples(Pack(clips, made_pack.samples, [])).clips.digest()

    changed = [msgspec.structs.replace(c, word_end=c.word_end + 1) for c in made_pack.clips]
    assert digest(made_pack.clips) == digest(list(made_pack.clips))
    assert len({digest(made_pack.clips), digest(made_pack.clips[1:]), digest(changed)}) == 3


def test_epochs_are_shuffled_and_reproducible(made_pack: Pack) -> None:
    training = examples(made_pack)
    first, again, other = (training.epoch(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert [label for label, *_ in first] != sorted(label for label, *_ in first)


def test_batches_are_reproducible(made_pack: Pack) -> None:
    training = examples(made_pack, unknown_fraction=0.5)
    plan = training.epoch(np.random.default_rng(0))
    first, again, other = (training.batch(plan, seed) for seed in (1, 1, 2))
    part = training.batch(plan[5:], 1, first=5)
    assert equal(first, again)
    assert np.array_equal(first.samples[5:], part.samples)
    assert not np.array_equal(first.samples, other.samples)
    assert np.array_equal(first.labels, other.labels)


def test_a_batch_has_its_shapes_and_types(made_pack: Pack) -> None:
    training = examples(made_pack)
    batch = training.batch(training.epoch(np.random.default_rng(0))[:7], 0)
    assert batch.samples.shape == (7, CONTEXT)
    assert batch.samples.dtype == np.int16
    assert all(values.shape == (7,) and values.dtype == np.int64 for values in batch[1:])


def test_a_short_clip_stands_in_the_middle_of_its_context(made_pack: Pack) -> None:
    (clip, *_) = [c for c in made_pack.clips if c.kind == "command" and c.split == "training" and c.n_samples < 15000]
    batch = examples(made_pack).batch([PlannedContext(0, clip)], 0)
    pad = (CONTEXT - clip.n_samples) // 2
    assert np.array_equal(batch.samples[0, pad : pad + clip.n_samples], made_pack.samples_of(clip))
    assert not batch.samples[0, :pad].any()
    assert not batch.samples[0, pad + clip.n_samples :].any()
    assert (batch.word_start[0], batch.word_end[0]) == (clip.word_start + pad, clip.word_end + pad)


def pack_of(samples: Int16, kind: ClipKind = "speech") -> tuple[Pack, Clip]:
    """A pack of one recording, without the files."""
    start, end = word_extent(samples)
    clip = Clip(Source("a.wav", 0, 0, kind, "training", "a"), 0, len(samples), start, end)
    return Pack([clip], samples, []), clip


def long_speech() -> tuple[Int16, slice]:
    """Ten seconds of faint hiss with one second of loud sound in it, and where that is."""
    random = np.random.default_rng(0)
    samples, loud = made_data.hiss(160000, random), slice(70000, 86000)
    samples[loud] = made_data.hiss(16000, random, -10)
    return to_int16(samples), loud


def contexts_of(samples: Int16, spec: Spec, n: int) -> Batch:
    """Many contexts cut from one long recording."""
    pack, clip = pack_of(samples)
    training = examples(pack, spec=spec, silence_fraction=0.0)
    return training.batch([PlannedContext(0, clip)] * n, 0)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a split lack classes, for tests of how one recording is cut."""
    monkeypatch.setattr(ClipsByClass, "_check", lambda self, pack, split: None)


@pytest.mark.usefixtures("unchecked")
def test_long_clips_are_cut_where_there_is_sound() -> None:
    samples, loud = long_speech()
    total = (from_int16(samples[loud]) ** 2).sum()
    batch = contexts_of(samples, SPEC, 200)
    fractions = (from_int16(batch.samples) ** 2).sum(axis=1) / total
    assert fractions.min() > 0.2
    assert len(np.unique(batch.samples, axis=0)) > 3


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("context_ms", [1000, 333, 701])
@pytest.mark.parametrize("extra_samples", [1, 524, 700, 1115, 1599, 1600])
def test_long_clips_of_any_length_fill_contexts_of_any_length(context_ms: int, extra_samples: int) -> None:
    spec = Spec(labels=Labels(("yes", "no")), context_ms=context_ms)
    samples = np.full(spec.context_samples + extra_samples, 1000, dtype=np.int16)
    batch = contexts_of(samples, spec, 50)
    assert batch.samples.shape == (50, spec.context_samples)
    assert (batch.samples == 1000).all()


@pytest.mark.usefixtures("unchecked")
def test_the_word_of_a_long_clip_moves_with_the_cut() -> None:
    samples, _ = long_speech()
    batch = contexts_of(samples, SPEC, 100)
    for context, start, end in zip(batch.samples, batch.word_start, batch.word_end, strict=True):
        assert 0 <= start < end <= CONTEXT
        power = from_int16(context) ** 2
        assert power[start:end].sum() > 0.9 * power.sum()


def test_the_validation_set_holds_every_isolated_word_once_and_is_the_same_every_time(made_pack: Pack) -> None:
    first = validation_set(examples(made_pack, "validation", silence_fraction=0.25), ()).batch
    again = validation_set(examples(made_pack, "validation", silence_fraction=0.25), ()).batch
    assert equal(first, again)
    clips = [c for c in made_pack.clips if c.split == "validation" and c.kind in ("command", "word")]
    n_keywords = sum(c.word in ("yes", "no") for c in clips)
    assert (first.labels < 2).sum() == n_keywords
    assert (first.labels == 2).sum() == len(clips) - n_keywords
    assert (first.labels == 3).mean() == pytest.approx(0.25, abs=0.01)


# Words that are made of others


def burst(start: int, end: int, n_samples: int = CONTEXT, level: float = 0.2, cycle: int = 4) -> WordSegment:
    """Silence with a tone in it, whose extent is known."""
    samples = np.zeros(n_samples, dtype=np.float32)
    samples[start:end] = level * np.sin(np.arange(1, end - start + 1) / cycle)
    return WordSegment(samples, start, end)


@pytest.mark.parametrize("seed", range(5))
def test_a_splice_begins_as_one_word_and_ends_as_the_other_at_its_level(seed: int) -> None:
    one, other = burst(3000, 8000), burst(6000, 12000, level=0.02, cycle=2)
    joined = splice(one, other, np.random.default_rng(seed))
    n_head, n_tail = round(0.35 * 5000) - 160, round(0.35 * 6000) - 160
    assert joined.start == 3000
    assert 0.3 * 11000 < joined.end - joined.start < 0.7 * 11000
    assert np.array_equal(joined.samples[: 3000 + n_head], one.samples[: 3000 + n_head])
    tail = joined.samples[joined.end - n_tail : joined.end]
    whole = other.samples[12000 - n_tail : 12000]
    assert np.allclose(tail, whole * 8, atol=0.01)  # ten times quieter, and at most eight times louder
    assert not joined.samples[joined.end + 2 :].any()


@pytest.mark.parametrize("seed", range(8))
def test_a_part_keeps_one_end_of_a_word_and_half_of_it_at_most(seed: int) -> None:
    whole = burst(4000, 12000)
    part = take_part(whole, np.random.default_rng(seed))
    assert 0.3 * 8000 - 1 <= part.end - part.start <= 0.55 * 8000
    assert part.start == 4000 or part.end == 12000
    middle = slice(part.start + 200, part.end - 200)
    assert np.array_equal(part.samples[middle], whole.samples[middle])
    outside = np.ones(CONTEXT, dtype=bool)
    outside[part.start - 200 : part.end + 200] = False
    assert not part.samples[outside].any()


@pytest.mark.usefixtures("unchecked")
def test_a_reversed_word_is_the_clip_backwards() -> None:
    whole = burst(2000, 7000)
    clip = Clip(Source("a", 0, 0, "command", "training", "yes"), 0, CONTEXT, 2000, 7000)
    batch = examples(Pack([clip], to_int16(whole.samples), [])).batch([PlannedContext(2, clip, "reversed")], 0)
    assert np.array_equal(batch.samples[0], to_int16(whole.samples)[::-1])
    assert (batch.word_start[0], batch.word_end[0]) == (CONTEXT - 7000, CONTEXT - 2000)


@pytest.mark.usefixtures("unchecked")
def test_a_reversed_word_of_a_long_clip_is_in_the_context() -> None:
    whole = burst(40000, 47000, n_samples=50000)
    clip = Clip(Source("a", 0, 0, "word", "training", "wow"), 0, 50000, 40000, 47000)
    batch = examples(Pack([clip], to_int16(whole.samples), [])).batch([PlannedContext(2, clip, "reversed")], 0)
    assert batch.word_end[0] - batch.word_start[0] == 7000
    assert (from_int16(batch.samples[0]) ** 2).sum() == pytest.approx((whole.samples**2).sum(), rel=1e-3)


def test_words_that_end_alike_are_not_spliced(made_pack: Pack) -> None:
    spec = Spec(labels=Labels(("yes", "no", "zero")))
    clips = [c.labelled("command") if c.word == "zero" else c for c in made_pack.clips]
    training = examples(Pack(clips, made_pack.samples, []), spec=spec, unknown_fraction=0.8, unknown_mix={"splice": 1})
    pairs = [(p.clip.word, p.other.word) for p in training.epoch(np.random.default_rng(0)) if p.clip and p.other]
    assert len(pairs) > 100
    assert not [pair for pair in pairs if pair[0][-1] == pair[1][-1]]


@pytest.mark.parametrize(
    ("keyword", "others"),
    [
        ("go", "no though know toe slow ago owe"),
        ("right", "white write kite seat date head"),
        ("yes", "once dress eyes"),
    ],
)
def test_words_that_end_in_one_sound_are_known_by_their_spelling(keyword: str, others: str) -> None:
    assert {ending(word) for word in others.split()} == {ending(keyword)}
    assert len({ending(word) for word in ("yes", "no", "up", "down", "left", "tree", "")}) == 7


def test_room_responses_begin_with_their_direct_sound(made_pack: Pack) -> None:
    response = np.zeros(20000, dtype=np.int16)
    response[500:900] = np.linspace(20000, 0, 400)
    room = Clip(
        Source("room.wav", 0, 0, "room", "training", "rooms"), len(made_pack.samples), len(response), 0, len(response)
    )
    pack = Pack([*made_pack.clips, room], np.concatenate([made_pack.samples, response]), [])
    rows = examples(pack).room_samples()
    assert rows.shape == (1, CONTEXT)
    assert np.array_equal(rows[0, :400], response[500:900])
    assert not rows[0, 400:].any()


# Splits


def test_no_clip_is_in_two_splits(made_pack: Pack) -> None:
    splits: tuple[Split, ...] = ("training", "validation", "testing")
    paths = [
        {
            clip.path
            for _, clip, *_ in examples(made_pack, split, unknown_fraction=0.6).epoch(np.random.default_rng(0))
            if clip
        }
        for split in splits
    ]
    assert all(paths)
    assert not paths[0] & paths[1]
    assert not paths[0] & paths[2]
    assert not paths[1] & paths[2]


def test_silence_of_training_and_validation_comes_from_disjoint_parts_of_the_noise(made_pack: Pack) -> None:
    """Each noise sample is replaced by its place in the made_pack, so that a context tells where it was cut."""
    noise = [clip for clip in made_pack.clips if clip.kind == "noise"]
    places = np.zeros(len(made_pack.samples), dtype=np.int16)
    for number, clip in enumerate(noise):
        blocks = np.arange(clip.n_samples) * 100 // clip.n_samples
        places[clip.offset : clip.offset + clip.n_samples] = 100 * number + blocks
    marked = Pack(made_pack.clips, places, [])
    seen: dict[str, set[int]] = {}
    splits: tuple[Split, ...] = ("training", "validation")
    for split in splits:
        part = examples(marked, split)
        contexts = part.batch([PlannedContext(3, None)] * 300, 0).samples
        seen[split] = set(contexts.ravel().tolist())
        assert set(part.noise_samples().tolist()) >= seen[split]
    assert {place % 100 for place in seen["training"]} == set(range(80))
    assert {place % 100 for place in seen["validation"]} == set(range(80, 100))
    assert {place // 100 for place in seen["training"]} == set(range(len(noise)))


def test_validation_takes_its_silence_from_the_noise_of_speech_commands_or_from_all_if_it_has_none(
    made_pack: Pack,
) -> None:
    def noises(pack: Pack, split: Split) -> set[str]:
        return {Path(clip.path).name for clip in examples(pack, split).clips.noise}

    without = [clip for clip in made_pack.clips if clip.word not in FOLDER_LABELS]
    assert noises(made_pack, "training") == {"hiss.wav", "hum.wav"}
    assert noises(made_pack, "validation") == {"hiss.wav"}
    assert noises(Pack(without, made_pack.samples, []), "validation") == {"hum.wav"}


def test_half_of_the_silence_comes_from_the_noise_of_speech_commands(made_pack: Pack) -> None:
    """However much longer the others are."""
    own = next(clip for clip in made_pack.clips if clip.word in FOLDER_LABELS)
    others = [clip for clip in made_pack.clips if clip.kind == "noise" and clip is not own]
    samples = made_pack.samples.copy()
    samples[own.offset : own.offset + own.n_samples] = 1
    for other in others:
        samples[other.offset : other.offset + other.n_samples] = 2
    clips = [*made_pack.clips, *others, *others, *others]
    batch = examples(Pack(clips, samples, [])).batch([PlannedContext(3, None)] * 400, 0)
    assert (batch.samples == 1).all(axis=1).mean() == pytest.approx(0.5, abs=0.08)
    assert (batch.samples == 2).all(axis=1).mean() == pytest.approx(0.5, abs=0.08)


# What cannot be trained on


def test_a_keyword_without_clips_is_named_with_what_there_is(made_pack: Pack) -> None:
    with pytest.raises(DataError) as caught:
        examples(made_pack, spec=Spec(labels=Labels(("yes", "marvin", "sheila"))))
    assert str(caught.value) == (
        "no training clips of: marvin, sheila; the training split has bed (24), no (24), yes (24)"
    )


def test_a_keyword_without_validation_clips_is_named(made_pack: Pack) -> None:
    clips = [clip for clip in made_pack.clips if not (clip.word == "no" and clip.split == "validation")]
    with pytest.raises(DataError, match=r"no validation clips of: no; the validation split has bed \(12\), yes \(12\)"):
        examples(Pack(clips, made_pack.samples, []), "validation")


def test_silence_needs_noise_to_be_cut_from(made_pack: Pack) -> None:
    clips = [clip for clip in made_pack.clips if clip.kind != "noise"]
    with pytest.raises(DataError, match="no noise of at least 80000 samples"):
        examples(Pack(clips, made_pack.samples, []))


def test_counts_tell_what_each_class_is_made_of(made_pack: Pack) -> None:
    counts = examples(made_pack).clips.counts()
    n_speech = sum(clip.kind == "speech" for clip in made_pack.clips)
    unknown = {"unknown, command": 24, "unknown, word": 60, "unknown, speech": n_speech}
    assert counts == {"yes": 24, "no": 24, **unknown, "silence": 2}
