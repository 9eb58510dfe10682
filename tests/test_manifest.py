"""The manifest: what became of each seq, small and stored without its weights."""

from itertools import pairwise

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from turnlog.engine.manifest import SENT, Manifest, Run, Verdict, spans, stored

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
        assert manifest.why(seq) == Verdict(seq, fate, fate, tokens)
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
    manifest = made(fates, line="l", cut=3, bare=((1, 2),), weights={1: 5})
    back = msgspec.convert(msgspec.json.decode(msgspec.json.encode(stored(manifest))), Manifest)
    assert back == made(fates, line="l", cut=3, bare=((1, 2),))
    assert "weights" not in stored(manifest)
