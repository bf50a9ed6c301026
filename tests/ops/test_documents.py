"""Documents and padding in attention ops: each document as if it stood alone, whatever is packed beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flashir import interpret
from flashir.errors import IRError, SettingError
from flashir.ir import Builder, DType, Graph, TensorType
from flashir.ops import OPS
from flashir.ops.attention.chunk_choices import strategies
from flashir.transforms.settle_choices import settle
from tests.support import assert_equal_results, lowered

Array = npt.NDArray[Any]
BATCH, KEY, VALUE = 2, 4, 6
MIXED = ("v", "quad_q", "quad_k", "bias", "lin_q", "lin_k")


@st.composite
def packed(draw: st.DrawFn, most: int = 17) -> Array:
    """Numbers of documents [b, t]: never falling, negative for padding anywhere."""
    length = draw(st.integers(0, most))
    rows = []
    for _ in range(BATCH):
        begins = np.array(draw(st.lists(st.integers(0, 3), min_size=length, max_size=length)), int) == 0
        real = np.array(draw(st.lists(st.integers(0, 4), min_size=length, max_size=length)), int) > 0
        numbers = 1 + np.cumsum(begins)
        rows.append(np.where(real, numbers, -numbers))
    return np.array(rows, np.int32).reshape(BATCH, length)


def masks() -> st.SearchStrategy[Array]:
    """Numbers, or only whether there is a token."""
    return packed() | packed().map(lambda numbers: numbers > 0)


def graph_of(op: str, types: dict[str, TensorType], **attrs: Any) -> Graph:
    """One op on operands in order, but for `documents`, which is given by name."""
    b = Builder(op)
    operands = {name: b.input(name, type_) for name, type_ in types.items()}
    names = [name for name in operands if f"{name}?" in OPS[op].operands]
    told = {name: operands.pop(name) for name in names}
    return b.finish(getattr(b, op)(*operands.values(), **told, **attrs))


def check(op: str, arrays: dict[str, Array], documents: Array, **attrs: Any) -> Array:
    """The result of an op with documents: by its reference, and by what it is made of, which must agree."""
    types = {name: TensorType(DType.F64, x.shape) for name, x in arrays.items()}
    kind = DType.BOOL if documents.dtype == bool else DType.I32
    graph = graph_of(op, {**types, "documents": TensorType(kind, documents.shape)}, **attrs)
    wanted = interpret(graph, {}, *arrays.values(), documents)
    assert_equal_results(interpret(lowered(graph), {}, *arrays.values(), documents), wanted)
    assert np.isfinite(wanted[0]).all()
    return wanted[0]


def drawn(seed: int, **shapes: tuple[int, ...]) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(shape) for name, shape in shapes.items()}


QUICK = settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))


def texts(documents: Array) -> Any:
    """The row and the positions of each document's tokens."""
    numbers = documents.astype(int)
    return [
        (row, np.flatnonzero(numbers[row] == number))
        for row in range(BATCH)
        for number in sorted({*numbers[row].tolist()})
        if number > 0
    ]


@QUICK
@given(
    documents=masks(),
    causal=st.booleans(),
    kernel=st.sampled_from(["relu2", "softmax", "laplace"]),
    seed=st.integers(0, 99),
)
def test_quadratic_attention_is_that_of_each_document(documents: Array, causal: bool, kernel: str, seed: int) -> None:
    t = documents.shape[1]
    arrays = drawn(seed, q=(BATCH, t, KEY), k=(BATCH, t, KEY), v=(BATCH, t, VALUE), bias=(t, t))
    out = check("quadratic_attention", arrays, documents, causal=causal, kernel=kernel)
    seen = np.zeros(documents.shape, bool)
    for row, at in texts(documents):
        q, k, v = (arrays[name][row : row + 1, at] for name in "qkv")
        alone = {"q": q, "k": k, "v": v, "bias": arrays["bias"][np.ix_(at, at)]}
        types = {name: TensorType(DType.F64, x.shape) for name, x in alone.items()}
        (wanted,) = interpret(graph_of("quadratic_attention", types, causal=causal, kernel=kernel), {}, *alone.values())
        np.testing.assert_allclose(out[row, at], wanted[0], atol=1e-9)
        seen[row, at] = True
    assert not out[~seen].any()


@QUICK
@given(documents=masks(), causal=st.booleans(), seed=st.integers(0, 99))
def test_softmax_attention_is_that_of_each_document(documents: Array, causal: bool, seed: int) -> None:
    t = documents.shape[1]
    arrays = drawn(seed, q=(BATCH, 3, t, KEY), k=(BATCH, 3, t, KEY), v=(BATCH, 3, t, VALUE))
    out = check("softmax_attention", arrays, documents, causal=causal, scale=0.5)
    for row, at in texts(documents):
        alone = {name: x[row : row + 1][:, :, at] for name, x in arrays.items()}
        types = {name: TensorType(DType.F64, x.shape) for name, x in alone.items()}
        (wanted,) = interpret(graph_of("softmax_attention", types, causal=causal, scale=0.5), {}, *alone.values())
        np.testing.assert_allclose(out[row][:, at], wanted[0], atol=1e-9)


@QUICK
@given(
    documents=masks(),
    causal=st.booleans(),
    how=st.sampled_from([("scan", "none"), ("scan", "chunk_mean"), ("matmul", "chunk"), ("native", "chunk_mean")]),
    chunk=st.sampled_from([1, 2, 3, 5, 20]),
    overlap=st.booleans(),
    kernel=st.sampled_from(["relu2", "softmax", "laplace"]),
    seed=st.integers(0, 99),
)
def test_chunked_attention_keeps_to_documents(
    documents: Array, causal: bool, how: tuple[str, str], chunk: int, overlap: bool, kernel: str, seed: int
) -> None:
    """By the reference, token by token; and another token elsewhere changes nothing."""
    t = documents.shape[1]
    heads = dict.fromkeys(("quad_q", "quad_k", "lin_q", "lin_k"), (BATCH, t, KEY))
    span = chunk * (1 + overlap)
    attrs = {
        "chunk": chunk,
        "causal": causal,
        "cumsum": how[0],
        "lin_norm": how[1],
        "overlap": overlap,
        "kernel": kernel,
    }
    shapes = {**heads, "v": (BATCH, t, VALUE), "bias": (span, span)}
    arrays = drawn(seed, **{name: shapes[name] for name in MIXED})
    out = check("chunked_recurrence", arrays, documents, **attrs)
    assert not out[documents.astype(int) <= 0].any()


@QUICK
@given(
    documents=packed(),
    causal=st.booleans(),
    how=st.sampled_from([("scan", "none"), ("scan", "chunk_mean"), ("matmul", "chunk"), ("matmul", "chunk_mean")]),
    seed=st.integers(0, 99),
)
def test_a_document_that_begins_with_a_chunk_is_as_if_alone(
    documents: Array, causal: bool, how: tuple[str, str], seed: int
) -> None:
    """Positions in the chunk are the same then, so the whole attention is."""
    chunk, before = 3, 2 * 3
    own = np.where(documents[:1] > 0, documents[:1] + 1, documents[:1] - 1)
    first = (abs(own) == abs(own[:, :1])).sum() if own.size else 0
    row = np.concatenate([np.ones((1, before), np.int32), own], axis=1).astype(np.int32)
    t = row.shape[1]
    heads = dict.fromkeys(("quad_q", "quad_k", "lin_q", "lin_k"), (1, t, KEY))
    shapes = {**heads, "v": (1, t, VALUE), "bias": (chunk, chunk)}
    arrays = drawn(seed, **{name: shapes[name] for name in MIXED})
    attrs = {"chunk": chunk, "causal": causal, "cumsum": how[0], "lin_norm": how[1]}
    packed_out = check("chunked_recurrence", arrays, row, **attrs)[:, before : before + first]
    alone = {name: x if name == "bias" else x[:, before : before + first] for name, x in arrays.items()}
    out = check("chunked_recurrence", alone, own[:, :first] > 0, **attrs)
    np.testing.assert_allclose(packed_out, out, atol=1e-9)


@QUICK
@given(
    documents=masks(),
    causal=st.booleans(),
    how=st.sampled_from([("scan", 1), ("scan", 3), ("matmul", 4), ("native", 3)]),
    seed=st.integers(0, 99),
)
def test_token_linear_attention_is_that_of_each_document(
    documents: Array, causal: bool, how: tuple[str, int], seed: int
) -> None:
    t = documents.shape[1]
    arrays = drawn(seed, v=(BATCH, 3, t, VALUE), lin_q=(BATCH, 3, t, KEY), lin_k=(BATCH, 3, t, KEY))
    attrs = {"causal": causal, "cumsum": how[0], "tile": how[1], "lin_norm": "none"}
    out = check("chunked_recurrence", arrays, documents, **attrs)
    seen = np.zeros(documents.shape, bool)
    for row, at in texts(documents):
        alone = {name: x[row : row + 1][:, :, at] for name, x in arrays.items()}
        types = {name: TensorType(DType.F64, x.shape) for name, x in alone.items()}
        (wanted,) = interpret(graph_of("chunked_recurrence", types, **attrs), {}, *alone.values())
        np.testing.assert_allclose(out[row][:, at], wanted[0], atol=1e-9)
        seen[row, at] = True
    assert not np.moveaxis(out, 1, 2)[~seen].any()


@QUICK
@given(
    documents=masks(),
    causal=st.booleans(),
    how=st.sampled_from([("scan", "chunk_mean"), ("matmul", "none"), ("native", "chunk_mean")]),
    chunk=st.sampled_from([1, 3, 5, 20]),
    seed=st.integers(0, 99),
)
def test_mixed_head_attention_keeps_to_documents(
    documents: Array, causal: bool, how: tuple[str, str], chunk: int, seed: int
) -> None:
    t = documents.shape[1]
    shapes = {"v": (BATCH, 3, t, VALUE), **dict.fromkeys(("quad_q", "quad_k", "lin_q", "lin_k"), (BATCH, 3, t, KEY))}
    arrays = drawn(seed, **shapes)
    attrs = {"causal": causal, "cumsum": how[0], "lin_norm": how[1], "chunk": chunk, "kernel": "softmax"}
    out = check("chunked_recurrence", arrays, documents, **attrs)
    assert not np.moveaxis(out, 1, 2)[documents.astype(int) <= 0].any()


@QUICK
@given(documents=masks(), causal=st.booleans(), chunk=st.sampled_from([1, 3, 5, 20]), seed=st.integers(0, 99))
def test_summaries_are_of_the_document_that_asks(documents: Array, causal: bool, chunk: int, seed: int) -> None:
    """Means of chunks, and attention to them, by the references; the mean of a chunk's first document, and its last."""
    t = documents.shape[1]
    chunks = -(-t // chunk)
    x = drawn(seed, x=(BATCH, t, KEY))["x"]
    for first in (False, True):
        means = check("chunk_means", {"x": x}, documents, chunk=chunk, causal=causal, first=first)
        for row in range(BATCH):
            for g in range(chunks):
                numbers = documents[row, g * chunk : (g + 1) * chunk].astype(int)
                last = g == chunks - 1 and not first and t % chunk  # it ends in what pads it
                end = 0 if last else 1 if documents.dtype == bool else abs(numbers[0 if first else -1])
                own = numbers > 0 if documents.dtype == bool else (numbers == end) & (numbers > 0)
                wanted = x[row, g * chunk : (g + 1) * chunk][own].mean(0) if own.any() else 0
                np.testing.assert_allclose(means[row, g], wanted, atol=1e-12)
    summaries = chunks * (1 if causal or documents.dtype == bool else 2)
    heads = dict.fromkeys("qk", (BATCH, 3, t, KEY)) | {"v": (BATCH, 3, t, VALUE)}
    arrays = drawn(seed, **heads, k_sum=(BATCH, 3, summaries, KEY), v_sum=(BATCH, 3, summaries, VALUE))
    out = check("summary_attention", arrays, documents, chunk=chunk, causal=causal, scale=0.5)
    assert not np.moveaxis(out, 1, 2)[documents.astype(int) <= 0].any()


def test_numbers_count_runs_of_equal_ids() -> None:
    b = Builder()
    ids, mask = b.input("ids", "i32[1, 7]"), b.input("mask", "bool[1, 7]")
    graph = b.finish(b.documents(ids), b.documents(ids, mask))
    segment_ids = np.array([[5, 5, -2, -2, 5, 0, 0]])
    real = np.array([[True, False, True, True, True, True, False]])
    plain, told = interpret(graph, {}, segment_ids, real)
    assert plain.tolist() == [[1, 1, 2, 2, 3, 4, 4]]
    assert told.tolist() == [[1, -1, 2, 2, 3, 4, -4]]


@pytest.mark.parametrize(
    ("documents", "said"),
    [
        ("f32[2, 7]", "documents must be bool or i32"),
        ("i64[2, 7]", "documents must be bool or i32"),
        ("bool[2, 8]", "documents must be bool or i32 of shape"),
        ("bool[3, 7]", "documents must be bool or i32 of shape"),
        ("bool[7]", "documents must be bool or i32 of shape"),
    ],
)
@pytest.mark.parametrize("op", ["gau", "flash", "mhsa"])
def test_documents_that_do_not_fit_are_refused(op: str, documents: str, said: str) -> None:
    b = Builder()
    with pytest.raises(IRError, match=said):
        getattr(b, op)(b.input("x", "f32[2, 7, 8]"), documents=b.input("documents", documents))


def test_segments_of_chunks_stand_beside_a_mask_but_not_beside_documents() -> None:
    b = Builder()
    x, segments = b.input("x", "f32[2, 7, 8]"), b.input("segments", "i32[2, 7]")
    b.flash(x, segment_ids=segments, documents=b.input("mask", "bool[2, 7]"))
    with pytest.raises(IRError, match="give one of them"):
        b.flash(x, segment_ids=segments, documents=b.input("documents", "i32[2, 7]"))


def test_attending_summaries_tell_no_documents_apart_both_ways() -> None:
    b = Builder()
    x, documents = b.input("x", "f32[2, 7, 8]"), b.input("documents", "i32[2, 7]")
    b.flash(x, documents=documents, summaries="attend")
    with pytest.raises(IRError, match="summaries = attend cannot separate"):
        b.flash(x, documents=documents, summaries="attend", causal=False)


def test_running_sums_are_no_way_to_begin_anew() -> None:
    b = Builder()
    x = b.input("x", "f32[2, 7, 8]")
    mask, documents = b.input("mask", "bool[2, 7]"), b.input("documents", "i32[2, 7]")
    graph = b.finish(
        b.flash(x, documents=mask), b.flash(x, documents=documents), b.flash(x, documents=documents, causal=False)
    )
    assert [strategies(node) for node in graph.nodes] == [("scan", "matmul", "native"), ("scan", "matmul"), ("matmul",)]
    with pytest.raises(SettingError, match="cumsum must be scan or matmul"):
        settle(graph, {"cumsum": "native"})
