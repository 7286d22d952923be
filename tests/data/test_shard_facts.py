"""Facts of shards: documents that are cut by the end of one are joined."""

import itertools

import numpy as np

from data import manifest as manifests
from data.shard_facts import join_hashes, read_facts
from engine.shards import write_shard


def test_a_document_cut_by_the_end_of_a_shard_is_one(tmp_path):
    """Its hash is that of the joined document, over two shards or three."""
    documents = [[1, 7, 8], [1, 9, 10, 11, 12, 13], [1, 14]]
    stream = [*itertools.chain(*documents)]
    for cuts in itertools.combinations(range(1, len(stream)), 2):
        facts = []
        for number, part in enumerate(np.split(np.array(stream), cuts)):
            path = tmp_path / f"x_train_{number:06d}.bin"
            write_shard(path, part)
            facts.append(read_facts(path, None, 100, 1, False))
        expected = [manifests.hash_document(np.array(document[1:])) for document in documents]
        assert join_hashes(facts).tolist() == expected
