"""The manifest: what became of each seq, small and stored without its weights."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from turnlog.engine.errors import Invalid
from turnlog.engine.manifest import SENT, Manifest, Run, Verdict, differing, spans, stored

FATES = ("kept", "pinned", "excerpted", "dropped", "compacted", "rewound", "erased", "superseded", "later", "aside")
fates = st.lists(st.sampled_from(FATES), max_size=40)


def made(fates, **columns):
    runs = []
    for seq, fate in enumerate(fates, 1):
        rule = FATES.index(fate)
        if runs and runs[-1].fate == fate:
            runs[-1] = Run(runs[-1].first, seq, fate, rule)
        else:
            runs.append(Run(seq, seq, fate, rule))
    values = {"policy": "p@1", "renderer": 1, "as_of": len(fates), "runs": tuple(runs), "rules": FATES}
    return Manifest(**values | columns)


@given(fates)
def test_every_seq_has_one_fate(fates):
    manifest = made(fates, weights={seq: seq * 10 for seq in range(1, len(fates) + 1)})
    for seq, fate in enumerate(fates, 1):
        assert manifest.fate(seq) == fate
        tokens = seq * 10 if fate in SENT else 0
        rule = fate if fate != "rewound" else f"the rewind at {manifest.run(seq).last + 1}"
        assert manifest.why(seq) == Verdict(seq, fate, rule, tokens)
    beyond = len(fates) + 1
    assert manifest.run(beyond) is None
    assert manifest.why(beyond) == Verdict(beyond, "later", f"the window is as of {len(fates)}", 0)
    assert manifest.run(0) is None


@given(fates)
def test_the_sent_spans_are_joined_and_are_what_was_sent(fates):
    sent = [seq for seq, fate in enumerate(fates, 1) if fate in SENT]
    found = list(made(fates).sent())
    assert [seq for first, last in found for seq in range(first, last + 1)] == sent
    assert all(right[0] > left[1] + 1 for left, right in pairwise(found))
    assert tuple(found) == spans(sent)


@given(st.sets(st.integers(1, 60)))
def test_spans_hold_what_they_were_made_of(seqs):
    manifest = made([], bare=spans(sorted(seqs)))
    assert {seq for seq in range(70) if manifest.is_bare(seq)} == seqs


@given(fates)
def test_a_stored_manifest_comes_back_without_its_weights(fates):
    manifest = made(fates, line="l", cut=3, bare=((1, 2),), weights={1: 5}, forgotten={1})
    back = msgspec.convert(msgspec.json.decode(msgspec.json.encode(stored(manifest))), Manifest)
    assert back == manifest.folded()
    assert back.weights == {}
    assert "forgotten" not in stored(manifest)
    assert made(fates, weights={1: 5}).folded() == made(fates)


BELOW = FATES.index("dropped")


@given(fates, st.integers(0, 41))
def test_below_the_cut_a_stored_manifest_does_not_say_what_was_rewound(fates, cut):
    manifest = made(fates, cut=cut, cut_by=BELOW)
    folded = manifest.folded()
    for seq in range(1, len(fates) + 1):
        run = manifest.run(seq)
        is_folded = run.fate == "rewound" and run.last < cut
        assert folded.fate(seq) == ("dropped" if is_folded else run.fate)
    assert all(right.first == left.last + 1 for left, right in pairwise(folded.runs))
    assert all((left.fate, left.rule) != (right.fate, right.rule) for left, right in pairwise(folded.runs))


@given(fates, st.integers(0, 41))
def test_the_path_tells_it_again(fates, cut):
    rewound = {seq for seq, fate in enumerate(fates, 1) if fate == "rewound"}
    assume(not rewound & {1, len(fates)})  # a path begins with the first event and ends with the last
    manifest = made(fates, cut=cut, cut_by=BELOW)
    path = spans([seq for seq in range(1, len(fates) + 1) if seq not in rewound])
    assert manifest.folded().along(path[::-1]) == manifest
    assert manifest.along(path) == manifest


def test_a_conversation_that_was_rewound_a_thousand_times_has_short_manifests():
    fates = (["kept"] + ["dropped", "rewound", "rewound"] * 1000 + ["kept"] * 3)[1:]
    manifest = made(fates, cut=3001, cut_by=BELOW)
    assert len(manifest.runs) == 2001
    assert manifest.folded().runs == (Run(1, 3000, "dropped", BELOW), Run(3001, 3003, "kept", FATES.index("kept")))


@given(fates, fates)
def test_differences_are_the_seqs_with_another_fate(one, other):
    longest = max(len(one), len(other))
    after = {seq for seq in range(1, longest + 1) if (fate_of(one, seq) != fate_of(other, seq))}
    found = differing(made(one), made(other))
    assert [seq for first, last in found for seq in range(first, last + 1)] == sorted(after)
    assert all(right[0] > left[1] + 1 for left, right in pairwise(found))
    assert differing(made(other), made(one)) == found


def fate_of(fates, seq):
    return fates[seq - 1] if seq <= len(fates) else "later"


@pytest.mark.parametrize("seq", [0, -1, True, 1.0, "1", None])
def test_what_can_be_no_seq_is_refused(seq):
    with pytest.raises(Invalid, match=f"seq={seq!r}: a whole number is needed, at least 1"):
        made(["kept"]).why(seq)


def test_of_a_fork_it_is_said_where_it_was_made():
    manifest = made(["kept"] * 3, forked=2)
    assert manifest.why(9) == Verdict(9, "later", "the window is as of 3, in a fork made at 2", 0)
