"""What items say, as vectors: the texts of an item, and the user's function over them."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from langgraph.store.base import (
    IndexConfig,
    Op,
    PutOp,
    SearchOp,
    ensure_embeddings,
    get_text_at_path,
    tokenize_path,
)
from typing_extensions import TypedDict

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings

Vector = list[float]

REMEMBERED = 10_000
"""How many texts a store remembers the vectors of."""


class AnnIndexConfig(TypedDict, total=False):
    """How PostgreSQL keeps vectors, where this store makes their table."""

    kind: Literal["hnsw", "flat"]
    """An index, as by default, or none: `flat` compares all."""
    vector_type: Literal["vector", "halfvec"]
    """32 bits a number, or 16, as by default."""
    m: int
    """How many neighbours a vector has. 16."""
    ef_construction: int
    """Among how many they are looked for. 64."""


class AgentkitIndexConfig(IndexConfig, total=False):
    """LangGraph's `IndexConfig` (`dims`, `embed`, `fields`), and how is searched."""

    search: Literal["semantic", "text", "hybrid"]
    """By what a `query` finds: by meaning, as by default; by its words, for which nothing is embedded;
    or by both, fused."""
    distance_type: Literal["cosine", "l2", "inner_product"]
    """By what vectors are compared: their angle, by default."""
    ann_index_config: AnnIndexConfig
    """How PostgreSQL keeps them."""


class Index:
    """The vectors of texts, each asked for once."""

    embeddings: Embeddings | None = None

    def __init__(self, config: AgentkitIndexConfig) -> None:
        self.search = config.get("search", "semantic")
        _one_of("search", self.search, ("semantic", "text", "hybrid"))
        fields = config.get("fields") or ["$"]
        fields = [fields] if isinstance(fields, str) else fields
        self._fields = [(field, _path(field)) for field in fields]
        self._remembered: OrderedDict[bytes, Vector] = OrderedDict()
        self._lock = threading.Lock()
        self.distance = config.get("distance_type", "cosine")
        if self.search != "text":
            self.embeddings = ensure_embeddings(config["embed"])
            self.dims = int(config["dims"])
            self._kept = config.get("ann_index_config", {})

    @property
    def native(self) -> tuple[int, str, str, str, int, int] | None:
        """What the database has to keep."""
        if self.embeddings is None:
            return None
        kind, kept_as = self._kept.get("kind", "hnsw"), self._kept.get("vector_type", "halfvec")
        _one_of("kind", kind, ("hnsw", "flat"))
        _one_of("vector_type", kept_as, ("vector", "halfvec"))
        _one_of("distance_type", self.distance, ("cosine", "l2", "inner_product"))
        neighbours = self._kept.get("m", 16), self._kept.get("ef_construction", 64)
        return self.dims, self.distance, kept_as, kind, *neighbours

    def embed(self, ops: Iterable[Op]) -> Embedded:
        """The vectors of what is put and asked, all texts that are new in one call."""
        embedded = Embedded(self, ops)
        if self.embeddings is not None:
            if texts := embedded.new_texts():
                embedded.learn("d", texts, self.embeddings.embed_documents(texts))
            for query in embedded.new_queries():
                embedded.learn("q", [query], [self.embeddings.embed_query(query)])
        return embedded

    async def aembed(self, ops: Iterable[Op]) -> Embedded:
        """See `embed`."""
        embedded = Embedded(self, ops)
        if self.embeddings is not None:
            if texts := embedded.new_texts():
                embedded.learn("d", texts, await self.embeddings.aembed_documents(texts))
            if queries := embedded.new_queries():
                asked = map(self.embeddings.aembed_query, queries)
                embedded.learn("q", queries, await asyncio.gather(*asked))
        return embedded

    def texts(self, op: PutOp) -> list[tuple[str, str]]:
        """The fields of an item that are found by meaning, with their texts."""
        if self.embeddings is None or op.value is None or op.index is False:
            return []
        fields = self._fields
        if op.index is not None:
            fields = [(field, _path(field)) for field in op.index]
        found = []
        for field, path in fields:
            texts = get_text_at_path(op.value, path)
            several = len(texts) > 1
            found += [(f"{field}.{n}" if several else field, text) for n, text in enumerate(texts)]
        return found

    def recall(self, kind: str, text: str) -> Vector | None:
        """The vector of a text that was embedded before."""
        with self._lock:
            vector = self._remembered.get(key := _hash(kind, text))
            if vector is not None:
                self._remembered.move_to_end(key)
            return vector

    def remember(self, kind: str, text: str, vector: Vector) -> None:
        with self._lock:
            self._remembered[_hash(kind, text)] = vector
            if len(self._remembered) > REMEMBERED:
                self._remembered.popitem(last=False)


class Embedded:
    """The vectors of a batch."""

    def __init__(self, index: Index, ops: Iterable[Op]) -> None:
        self._index = index
        self._known: dict[tuple[str, str], Vector] = {}
        self._new: dict[tuple[str, str], None] = {}
        for op in ops:
            if isinstance(op, PutOp):
                wanted = [("d", text) for _, text in index.texts(op)]
            elif isinstance(op, SearchOp) and op.query and index.embeddings is not None:
                wanted = [("q", op.query)]
            else:
                continue
            for kind, text in wanted:
                if (vector := index.recall(kind, text)) is not None:
                    self._known[kind, text] = vector
                else:
                    self._new[kind, text] = None

    def new_texts(self) -> list[str]:
        return [text for kind, text in self._new if kind == "d"]

    def new_queries(self) -> list[str]:
        return [text for kind, text in self._new if kind == "q"]

    def learn(self, kind: str, texts: Sequence[str], vectors: Sequence[Sequence[float]]) -> None:
        if len(texts) != len(vectors):
            raise ValueError(f"embed: {len(texts)} texts have {len(vectors)} vectors")
        for text, given in zip(texts, vectors, strict=True):
            vector = [float(number) for number in given]
            if len(vector) != self._index.dims:
                raise ValueError(
                    f"embed: a vector has {len(vector)} numbers, and `dims` is {self._index.dims}"
                )
            self._known[kind, text] = vector
            self._index.remember(kind, text, vector)

    def of_item(self, op: PutOp) -> list[tuple[str, Vector]]:
        """Its vectors by field."""
        return [(field, self._known["d", text]) for field, text in self._index.texts(op)]

    def of_search(self, op: SearchOp) -> tuple[str | None, Vector | None, str]:
        """The words and the vector by which it finds, and how vectors are compared."""
        if not op.query:
            return None, None, "cosine"
        text = op.query if self._index.search != "semantic" else None
        return text, self._known.get(("q", op.query)), self._index.distance


class NotEmbedded:
    """Of a store without an index."""

    def of_item(self, op: PutOp) -> list[tuple[str, Vector]]:
        return []

    def of_search(self, op: SearchOp) -> tuple[str | None, Vector | None, str]:
        return None, None, "cosine"


def _path(field: str) -> Any:
    return field if field == "$" else tokenize_path(field)


def _hash(kind: str, text: str) -> bytes:
    return hashlib.sha256(f"{kind}{text}".encode("utf-8", "surrogatepass")).digest()


def _one_of(name: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise ValueError(f"{name}: must be one of {', '.join(known)}, is {given!r}")
